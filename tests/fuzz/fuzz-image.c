/*
 * fuzz-image.c - a template's files as they may be on disk: RAM image, ram.sums and ram.first with any
 * bytes and lengths. A page that is given is zeros where the sums say so, or else of a chunk that has
 * its sum, however chunks were loaded and dropped before; what hasn't is never given.
 *
 * Input: u8 pages, u8 flags (1 whole, 2 ram.first, 4 sums of other length, 8 file of other length, 16 the
 * image has the file's bytes, 32 domain 0, 64 size odd), u8 changes, then those: u16 place, u8 value; u8 number of
 * other sums, each u8 chunk, u8 which, ram.first's length and bytes; then operations.
 */
#include "fuzz.h"

#include "mem/check.h"
#include "mem/image.h"
#include "mem/page.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PAGES  150u /* so that there is more than a byte of bits */
#define MAX_CHUNKS (MAX_PAGES / COP_CHUNK_PAGES + 1)

static uint8_t file[MAX_PAGES * COP_PAGE_BYTES];
static uint64_t sums[MAX_CHUNKS];
static uint8_t good[MAX_CHUNKS]; /* the file's chunk has its sum */

static size_t chunk_len(size_t size, uint32_t chunk)
{
	size_t left = size - chunk * (size_t)COP_CHUNK_BYTES;

	return left < COP_CHUNK_BYTES ? left : COP_CHUNK_BYTES;
}

static uint64_t sum_of(size_t size, uint32_t chunk)
{
	uint64_t sum = cop_check(file + chunk * (size_t)COP_CHUNK_BYTES, chunk_len(size, chunk));

	return sum ? sum : 1;
}

static void make_bytes(struct input *in, size_t size)
{
	memset(file, 0, sizeof(file));
	for (size_t i = 0; i < size; i += 64)
		file[i] = i / COP_PAGE_BYTES % 3 ? (uint8_t)(i >> 6 | 1) : 0;
	for (unsigned int n = take(in); n; n--) {
		size_t at = (take(in) | (size_t)take(in) << 8) * 97 % size;

		file[at] = take(in);
	}
	for (uint32_t i = 0; i * (size_t)COP_CHUNK_BYTES < size; i++)
		sums[i] = sum_of(size, i);
	for (unsigned int n = take(in) % 8; n; n--) {
		uint32_t chunk = take(in) % MAX_CHUNKS;
		uint64_t others[4] = {0, 1, UINT64_MAX, sums[chunk] ^ 1ull << 40};

		sums[chunk] = others[take(in) % 4];
	}
	for (uint32_t i = 0; i * (size_t)COP_CHUNK_BYTES < size; i++)
		good[i] = sums[i] && sums[i] == sum_of(size, i);
}

static void check_page(struct cop_image *image, uint32_t gfn, bool whole)
{
	static const uint8_t zeros[COP_PAGE_BYTES];
	static uint8_t page[COP_PAGE_BYTES];
	uint32_t chunk = gfn / COP_CHUNK_PAGES;
	int r;

	memset(page, 0x5a, sizeof(page));
	r = cop_image_page(image, gfn, page);
	if (gfn >= image->size_bytes / COP_PAGE_BYTES) {
		must(r == -ENOENT, "a page behind the end");
		return;
	}
	must(r == 0 || r == -EAGAIN, "another error");
	must((r == 0) == cop_image_is_loaded(image, gfn), "given, though not loaded");
	if (r || whole)
		return; /* of a whole image its bytes count, whatever the sums say */
	must(sums[chunk] == 0 || good[chunk], "a page of a chunk that hasn't its sum");
	must(cop_page_equal(page, sums[chunk] ? file + gfn * (size_t)COP_PAGE_BYTES : zeros), "other bytes");
}

static void operate(struct input *in, struct cop_image *image, bool whole)
{
	static uint8_t bytes[COP_CHUNK_BYTES];
	const uint8_t *page;
	uint32_t which = take(in), chunk = which / 8 % image->nr_chunks;
	int r;

	switch (which % 8) {
	case 0:
	case 1:
		if (image->file < 0)
			break;
		r = cop_image_read_chunk(image, chunk, bytes);
		must(r == (good[chunk] ? 0 : -EBADMSG), "a chunk's sum");
		if (r == 0)
			must(cop_image_fill_chunk(image, chunk, bytes, which & 1, take(in)) == 0, "room");
		break;
	case 2:
		(void)cop_image_trim(image, take(in) * 100u, 1 + which / 8, false);
		break;
	case 3:
		image->pins += which & 8 ? 1 : 0;
		(void)cop_image_trim(image, 0, 1 + which / 8, true);
		image->pins = 0;
		break;
	case 4:
		(void)cop_image_has_data(image->fd, which / 8);
		(void)cop_image_resident_bytes(image);
		break;
	case 5:
		r = cop_engine_template_page(image->engine, image->domain, which, &page);
		must(r == 0 || r == -EAGAIN || r == -ENOENT, "another error");
		break;
	default:
		check_page(image, take(in), whole);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct cop_engine engine;
	struct input in = {data, len};
	size_t pages = 1 + take(&in) % MAX_PAGES, size = pages * COP_PAGE_BYTES, first_len;
	unsigned int flags = take(&in), nr_chunks;
	bool whole = flags & 1;
	struct cop_image *image, *other;
	uint8_t first[64];
	int fds[3], first_fd = -1, fd, r;
	unsigned int fds_then;

	if (!engine.by_domain)
		engine.by_domain = calloc(COP_MAX_DOMAIN + 1ul, sizeof(*engine.by_domain));
	must(engine.by_domain, "memory");
	fds_then = count_fds();
	make_bytes(&in, size);
	nr_chunks = (unsigned int)((size + COP_CHUNK_BYTES - 1) / COP_CHUNK_BYTES);
	first_len = take(&in) % sizeof(first);
	take_bytes(&in, first, first_len);
	/* What is there already is right, says image.h: where a chunk has no sum there is nothing. */
	fd = make_file(file, flags & 16 && !(flags & 128) ? size : 0, size);
	for (uint32_t i = 0; i < nr_chunks && !whole; i++) {
		if (!good[i])
			must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				       (off_t)i * COP_CHUNK_BYTES, COP_CHUNK_BYTES) == 0,
			     "a hole");
	}
	r = cop_image_new(&engine, 5, flags & 32 ? 0 : 3, size + (flags & 64 ? 1 : 0), fd, &image);
	must((r == 0) == !(flags & (32 | 64)), "an image of no size or domain");
	if (r) {
		close(fd);
		return 0;
	}
	must(cop_image_new(&engine, 6, 3, size, fd, &other) == -EBUSY, "two in a domain");
	fds[0] = make_file(file, size, flags & 8 ? size + take(&in) * 100u - 4000u : size);
	fds[1] = make_file(sums, sizeof(sums), nr_chunks * sizeof(sums[0]) + (flags & 4 ? take(&in) - 128u : 0));
	if (flags & 2)
		first_fd = make_file(first, first_len, first_len);
	check_page(image, take(&in), true);
	r = cop_image_set_file(image, fds[0], fds[1], first_fd, whole);
	must(r == 0 || r == -EINVAL, "another error");
	must(r == 0 || (flags & 12), "files that are right are refused");
	if (r) {
		close(fds[0]);
		close(fds[1]);
		if (first_fd >= 0)
			close(first_fd);
		whole = true; /* without a file it is as it is */
	}
	for (unsigned int i = 0; i < 200 && in.left; i++)
		operate(&in, image, whole);
	for (uint32_t gfn = 0; gfn < pages + 2; gfn++)
		check_page(image, gfn, whole);
	cop_image_free(image);
	must(!engine.images && !engine.by_domain[3] && count_fds() == fds_then, "something is left");
	return 0;
}
