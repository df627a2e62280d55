/* image.c - see image.h. */
#include "mem/image.h"
#include "mem/check.h"
#include "mem/page.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEEP_S	       10 /* a chunk stays this long after it was loaded, twice that if it came back.. */
#define MAX_KEEP_SHIFT 8

static bool bit(const uint8_t *map, uint32_t i)
{
	return map[i / 8] >> i % 8 & 1;
}

static void set_bit(uint8_t *map, uint32_t i, bool on)
{
	map[i / 8] = (uint8_t)((map[i / 8] & ~(1u << i % 8)) | (unsigned int)on << i % 8);
}

int cop_image_new(struct cop_engine *e, uint64_t id, unsigned int domain, uint64_t size_bytes,
		  int fd, struct cop_image **ret_image)
{
	static uint64_t serial;
	struct cop_image *image;

	if (domain == 0 || domain > COP_MAX_DOMAIN || size_bytes == 0 ||
	    size_bytes % COP_PAGE_BYTES || size_bytes / COP_PAGE_BYTES > (1u << 28))
		return -EINVAL;
	if (e->by_domain[domain])
		return -EBUSY;
	image = calloc(1, sizeof(*image));
	if (!image)
		return -ENOMEM;
	image->nr_chunks = (uint32_t)((size_bytes + COP_CHUNK_BYTES - 1) / COP_CHUNK_BYTES);
	image->loaded = malloc((image->nr_chunks + 7) / 8);
	if (!image->loaded) {
		free(image);
		return -ENOMEM;
	}
	memset(image->loaded, 0xff, (image->nr_chunks + 7) / 8);
	image->engine = e;
	image->serial = ++serial;
	image->id = id;
	image->domain = domain;
	image->size_bytes = size_bytes;
	image->fd = fd;
	image->file = image->first_fd = -1;
	image->next = e->images;
	e->images = image;
	e->by_domain[domain] = image;
	*ret_image = image;
	return 0;
}

static int read_all(int fd, void *buf, size_t len_bytes, off_t at)
{
	size_t done = 0;

	while (done < len_bytes) {
		ssize_t n = pread(fd, (uint8_t *)buf + done, len_bytes - done, at + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EINVAL; /* shorter than it should be */
		done += (size_t)n;
	}
	return 0;
}

int cop_image_set_file(struct cop_image *image, int file, int sums_fd, int first_fd, bool whole)
{
	size_t bytes = (image->nr_chunks + 7) / 8;
	struct stat st;
	uint64_t *sums = calloc(image->nr_chunks, sizeof(*sums));
	uint8_t *first = calloc(1, bytes), *returns = calloc(1, image->nr_chunks);
	uint32_t *since = calloc(image->nr_chunks, sizeof(*since));
	int r = -ENOMEM;

	if (!sums || !first || !returns || !since)
		goto fail;
	r = fstat(file, &st) < 0 ? -errno : (uint64_t)st.st_size == image->size_bytes ? 0 : -EINVAL;
	if (r == 0)
		r = read_all(sums_fd, sums, image->nr_chunks * sizeof(*sums), 0);
	if (r)
		goto fail;
	/* It may be short, or not there: then nothing is known. */
	if (first_fd >= 0 && read_all(first_fd, first, bytes, 0) < 0)
		memset(first, 0, bytes);
	for (uint32_t i = 0; i < image->nr_chunks; i++) {
		image->nonzero_bytes += sums[i] ? COP_CHUNK_BYTES : 0;
		set_bit(image->loaded, i, whole || sums[i] == 0);
	}
	image->sums = sums;
	image->first = first;
	image->returns = returns;
	image->since = since;
	image->file = file;
	image->first_fd = first_fd;
	close(sums_fd);
	return 0;
fail:
	free(sums);
	free(first);
	free(returns);
	free(since);
	return r;
}

struct cop_image *cop_image_find(struct cop_engine *e, uint64_t id)
{
	struct cop_image *image = e->images;

	while (image && image->id != id)
		image = image->next;
	return image;
}

void cop_image_free(struct cop_image *image)
{
	struct cop_image **at = &image->engine->images;

	while (*at != image)
		at = &(*at)->next;
	*at = image->next;
	image->engine->by_domain[image->domain] = NULL;
	close(image->fd);
	if (image->file >= 0)
		close(image->file);
	if (image->first_fd >= 0)
		close(image->first_fd);
	free(image->sums);
	free(image->loaded);
	free(image->first);
	free(image->returns);
	free(image->since);
	free(image);
}

bool cop_image_is_loaded(const struct cop_image *image, uint32_t gfn)
{
	return bit(image->loaded, gfn / COP_CHUNK_PAGES);
}

bool cop_image_has_data(int fd, uint32_t gfn)
{
	off_t at = (off_t)gfn * COP_PAGE_BYTES;

	return lseek(fd, at, SEEK_DATA) == at;
}

int cop_image_page(struct cop_image *image, uint32_t gfn, uint8_t *ret_page)
{
	if ((uint64_t)gfn * COP_PAGE_BYTES >= image->size_bytes)
		return -ENOENT;
	if (!cop_image_is_loaded(image, gfn))
		return -EAGAIN;
	/* read(2) of a hole makes no page, as a look through a mapping would. */
	return read_all(image->fd, ret_page, COP_PAGE_BYTES, (off_t)gfn * COP_PAGE_BYTES);
}

static size_t chunk_len(const struct cop_image *image, uint32_t chunk)
{
	uint64_t left = image->size_bytes - (uint64_t)chunk * COP_CHUNK_BYTES;

	return left < COP_CHUNK_BYTES ? (size_t)left : COP_CHUNK_BYTES;
}

int cop_image_read_chunk(const struct cop_image *image, uint32_t chunk, uint8_t *ret_bytes)
{
	size_t len = chunk_len(image, chunk);
	off_t at = (off_t)chunk * COP_CHUNK_BYTES;
	uint64_t sum;
	int r = read_all(image->file, ret_bytes, len, at);

	if (r)
		return r;
	/* It is in the image from now on; the page cache need not hold it as well. */
	(void)posix_fadvise(image->file, at, (off_t)len, POSIX_FADV_DONTNEED);
	sum = cop_check(ret_bytes, len);
	return (sum ? sum : 1) == image->sums[chunk] ? 0 : -EBADMSG;
}

int cop_image_fill_chunk(struct cop_image *image, uint32_t chunk, const uint8_t *bytes, bool demand,
			 uint32_t now_s)
{
	size_t len = chunk_len(image, chunk);

	if (bit(image->loaded, chunk))
		return 0;
	for (size_t at = 0; at < len; at += COP_PAGE_BYTES) {
		off_t to = (off_t)chunk * COP_CHUNK_BYTES + (off_t)at;
		ssize_t n;

		if (cop_page_is_zero(bytes + at) ||
		    cop_image_has_data(image->fd, (uint32_t)(to / COP_PAGE_BYTES)))
			continue;
		n = pwrite(image->fd, bytes + at, COP_PAGE_BYTES, to);
		if (n != COP_PAGE_BYTES)
			return n < 0 ? -errno : -ENOSPC;
	}
	set_bit(image->loaded, chunk, true);
	image->since[chunk] = now_s;
	image->loaded_bytes += len;
	if (demand && image->returns[chunk] < UINT8_MAX)
		image->returns[chunk]++;
	if (demand && !bit(image->first, chunk)) {
		set_bit(image->first, chunk, true);
		/* Only a hint for the next time: a failure costs nothing else. */
		if (image->first_fd >= 0)
			(void)!pwrite(image->first_fd, &image->first[chunk / 8], 1, chunk / 8);
	}
	return 0;
}

uint64_t cop_image_trim(struct cop_image *image, uint32_t now_s, unsigned int max_chunks, bool force)
{
	uint64_t left = 0;

	if (image->file < 0 || image->pins)
		return 0;
	for (uint32_t i = 0; i < image->nr_chunks && max_chunks; i++) {
		uint32_t chunk = image->hand;
		unsigned int shift = image->returns[chunk];

		image->hand = (image->hand + 1) % image->nr_chunks;
		if (shift > MAX_KEEP_SHIFT)
			shift = MAX_KEEP_SHIFT;
		if (!image->sums[chunk] || !bit(image->loaded, chunk) ||
		    (!force && now_s - image->since[chunk] < (uint32_t)KEEP_S << shift))
			continue;
		max_chunks--;
		set_bit(image->loaded, chunk, false);
		if (fallocate(image->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)chunk * COP_CHUNK_BYTES, (off_t)chunk_len(image, chunk)) == 0)
			left += chunk_len(image, chunk);
	}
	image->dropped_bytes += left;
	return left;
}

uint64_t cop_image_resident_bytes(const struct cop_image *image)
{
	struct stat st;

	return fstat(image->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}
