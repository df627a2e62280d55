/* SPDX-License-Identifier: MIT */
/*
 * loader.c: chunks of templates come from disk here, so that a slow disk holds up only who needs it.
 *
 * The queue is a ring of fixed size, pushed to with the engine's lock; when it is full the fault is
 * woken at once and comes again.
 */
#include "pager/pager.h"
#include "mem/image.h"
#include "mem/uffd.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RING	  1024u
#define RETRY_MS  20
#define MAX_IMAGES 64

struct want {
	uint32_t slot, serial;
	uint64_t addr;
	struct cop_image *image; /* with a reference; NULL: only wake */
	uint32_t gfn;
};

static struct {
	struct want ring[RING];
	uint32_t head, tail;
	struct cop_image *prefetch[MAX_IMAGES]; /* with references */
	uint32_t prefetch_chunk[MAX_IMAGES];
	pthread_cond_t more;
} loader = {.more = PTHREAD_COND_INITIALIZER};

void loader_push(const struct vm *vm, uint64_t addr, struct cop_image *image, uint32_t gfn)
{
	if (loader.tail - loader.head == RING) {
		(void)cop_uffd_wake(vm->space->uffd, addr & ~(uint64_t)(COP_PAGE_BYTES - 1), COP_PAGE_BYTES);
		return;
	}
	if (image)
		image->refs++;
	loader.ring[loader.tail++ % RING] =
		(struct want){vm->slot, vm->serial, addr, image, gfn};
	(void)pthread_cond_signal(&loader.more);
}

void loader_prefetch(struct cop_image *image)
{
	for (unsigned int i = 0; i < MAX_IMAGES; i++) {
		if (!loader.prefetch[i]) {
			image->refs++;
			loader.prefetch[i] = image;
			loader.prefetch_chunk[i] = 0;
			(void)pthread_cond_signal(&loader.more);
			return;
		}
	}
}

/* Loads a chunk; without the lock before and after. */
static int load(struct cop_image *image, uint32_t chunk, bool demand)
{
	static uint8_t bytes[COP_CHUNK_BYTES];
	bool there;
	int r = 0;

	cop_engine_lock(&pager.engine);
	there = cop_image_is_loaded(image, chunk * COP_CHUNK_PAGES);
	cop_engine_unlock(&pager.engine);
	if (there)
		return 0;
	r = cop_image_read_chunk(image, chunk, bytes);
	cop_engine_lock(&pager.engine);
	if (r == 0)
		r = cop_image_fill_chunk(image, chunk, bytes, demand, pager_now_s());
	cop_engine_unlock(&pager.engine);
	return r;
}

static void serve(const struct want *want)
{
	struct timespec pause = {0, RETRY_MS * 1000000L};
	uint32_t chunk = want->gfn / COP_CHUNK_PAGES;
	struct vm *vm;
	int r;

	if (!want->image) {
		(void)nanosleep(&pause, NULL);
		r = 0;
	} else {
		r = load(want->image, chunk, true);
	}
	cop_engine_lock(&pager.engine);
	vm = vm_get(want->slot, want->serial);
	if (vm && (r == -ENOSPC || r == -ENOMEM)) {
		loader_push(vm, want->addr, want->image, want->gfn);
	} else if (vm && r) {
		cop_space_damage(vm->space, r == -EBADMSG
			? "the template's RAM image was altered at byte %" PRIu64
			: "the template's RAM image can't be read at byte %" PRIu64,
			(uint64_t)chunk * COP_CHUNK_BYTES);
		pager_log(0, "VM %" PRIu64 ": %s", vm->key - 1, vm->space->why);
	} else if (vm) {
		(void)cop_uffd_wake(vm->space->uffd, want->addr & ~(uint64_t)(COP_PAGE_BYTES - 1),
				    COP_PAGE_BYTES);
	}
	if (want->image)
		want->image->refs--;
	cop_engine_unlock(&pager.engine);
	if (r == -ENOSPC || r == -ENOMEM)
		(void)nanosleep(&pause, NULL);
}

/* One chunk of what clones touched first. With the lock before and after. */
static void prefetch(unsigned int i)
{
	struct cop_image *image = loader.prefetch[i];
	uint32_t chunk = loader.prefetch_chunk[i];
	int r;

	while (chunk < image->nr_chunks &&
	       (!(image->first[chunk / 8] >> chunk % 8 & 1) ||
		cop_image_is_loaded(image, chunk * COP_CHUNK_PAGES)))
		chunk++;
	loader.prefetch_chunk[i] = chunk + 1;
	if (chunk < image->nr_chunks) {
		cop_engine_unlock(&pager.engine);
		r = load(image, chunk, false);
		cop_engine_lock(&pager.engine);
		if (r == 0)
			return;
	}
	loader.prefetch[i] = NULL;
	image->refs--;
}

void *loader_thread(void *unused)
{
	(void)pthread_setname_np(pthread_self(), "loader"); /* only for people who look */
	cop_engine_lock(&pager.engine);
	for (;;) {
		unsigned int i = 0;

		if (loader.head != loader.tail) {
			struct want want = loader.ring[loader.head++ % RING];

			cop_engine_unlock(&pager.engine);
			serve(&want);
			cop_engine_lock(&pager.engine);
			continue;
		}
		while (i < MAX_IMAGES && !loader.prefetch[i])
			i++;
		if (i < MAX_IMAGES)
			prefetch(i);
		else
			(void)pthread_cond_wait(&loader.more, &pager.engine.lock);
	}
	return NULL;
}
