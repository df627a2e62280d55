/*
 * image.h - a template's RAM image: a file on a tmpfs that clones map private, filled from the
 * template's file on disk as they touch it.
 *
 * States of a chunk (64 KiB): not loaded (all holes, or some of its pages after a kill) --load-->
 * loaded (its holes are zeros) --drop--> not loaded. An image without a file is loaded throughout.
 *
 * Threads and locks: the engine's lock for all but cop_image_read_chunk(). Who waits for a chunk
 * without the lock holds a reference.
 *
 * Invariants: 1. A page in the image has the template's bytes, whatever chunk state says. 2. A hole
 * in a loaded chunk is a page of zeros. 3. Chunks are dropped only while no VM maps the image that
 * isn't registered for missing pages, and nobody has it pinned.
 */
#ifndef COP_MEM_IMAGE_H
#define COP_MEM_IMAGE_H

#include "mem/engine.h"

#define COP_CHUNK_BYTES (64u << 10)
#define COP_CHUNK_PAGES (COP_CHUNK_BYTES / COP_PAGE_BYTES)

struct cop_image {
	struct cop_image *next;
	struct cop_engine *engine;
	uint64_t id, size_bytes;
	uint64_t serial; /* never that of another image of this process; not 0 */
	unsigned int domain;
	uint32_t nr_chunks;
	int fd;		  /* on the tmpfs */
	int file;	  /* the template's, -1: none (yet) */
	int first_fd;	  /* where `first` is kept, or -1 */
	uint64_t *sums;	  /* of the file's chunks; 0: zeros */
	uint8_t *loaded;  /* a bit a chunk */
	uint8_t *first;	  /* a bit a chunk: clones touched it soon after their start */
	uint8_t *returns; /* how often a chunk came back after it was dropped, at most 255 */
	uint32_t *since;  /* when a chunk was loaded, seconds */
	uint32_t hand;	  /* the next chunk to look at for dropping */
	unsigned int vms, refs, pins;
	uint64_t nonzero_bytes, loaded_bytes, dropped_bytes;
};

/* A new image in the engine's list; fd is taken. Its domain must be free. 0, -EBUSY, -ENOMEM. */
int cop_image_new(struct cop_engine *e, uint64_t id, unsigned int domain, uint64_t size_bytes,
		  int fd, struct cop_image **ret_image);
/* Gives it its file. All descriptors are taken if it succeeds (sums is closed; first may be -1).
 * whole: all is loaded now. 0, -EINVAL (sizes), -ENOMEM, -errno. */
int cop_image_set_file(struct cop_image *image, int file, int sums, int first, bool whole);
struct cop_image *cop_image_find(struct cop_engine *e, uint64_t id);
/* When vms, refs and pins are 0. */
void cop_image_free(struct cop_image *image);

bool cop_image_is_loaded(const struct cop_image *image, uint32_t gfn);
/* Is there something in the image's page, or is it a hole? */
bool cop_image_has_data(int fd, uint32_t gfn);
/* The bytes of a page. 0, -EAGAIN (its chunk is not loaded), -errno. */
int cop_image_page(struct cop_image *image, uint32_t gfn, uint8_t *ret_page);

/* Reads a chunk from the file and verifies it. Without the lock. 0, -EBADMSG, -errno. */
int cop_image_read_chunk(const struct cop_image *image, uint32_t chunk, uint8_t *ret_bytes);
/* Puts what was read into the image. demand: a VM waits for it. 0 or -errno (-ENOSPC: no room in the
 * tmpfs now). */
int cop_image_fill_chunk(struct cop_image *image, uint32_t chunk, const uint8_t *bytes, bool demand,
			 uint32_t now_s);

/* Drops up to max_chunks chunks that were loaded a while ago: the longer the more often they came
 * back before; force: whenever it was. Returns the bytes that left. */
uint64_t cop_image_trim(struct cop_image *image, uint32_t now_s, unsigned int max_chunks, bool force);

/* Host memory of the image. */
uint64_t cop_image_resident_bytes(const struct cop_image *image);

#endif
