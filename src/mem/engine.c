/* engine.c - see engine.h. */
#include "mem/engine.h"
#include "mem/image.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Thread_local struct cop_missing cop_missing;

int cop_engine_template_page(void *ctx, unsigned int domain, uint32_t gfn, const uint8_t **ret_page)
{
	/* An evicted page's is asked for twice in a row; its bytes never change. */
	static _Thread_local struct {
		uint64_t serial; /* of the image */
		uint32_t gfn;
		uint8_t page[COP_PAGE_BYTES];
	} last;
	struct cop_engine *e = ctx;
	struct cop_image *image = domain <= COP_MAX_DOMAIN ? e->by_domain[domain] : NULL;
	int r;

	if (!image)
		return -ENOENT;
	*ret_page = last.page;
	if (last.serial == image->serial && last.gfn == gfn)
		return 0;
	last.serial = 0;
	r = cop_image_page(image, gfn, last.page);
	if (r == -EAGAIN)
		cop_missing = (struct cop_missing){image, gfn};
	if (r == 0) {
		last.serial = image->serial;
		last.gfn = gfn;
	}
	return r;
}

static int open_store(struct cop_engine *e, bool *ret_found)
{
	const struct cop_templates templates = {cop_engine_template_page, e};
	struct stat st;
	int r;

	if (fstat(e->store_fd, &st) < 0)
		return -errno;
	*ret_found = st.st_size > 0;
	if (*ret_found)
		e->store_bytes = (uint64_t)st.st_size;
	else if (ftruncate(e->store_fd, (off_t)e->store_bytes) < 0)
		return -errno;
	e->store_mem = mmap(NULL, e->store_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, e->store_fd, 0);
	if (e->store_mem == MAP_FAILED) {
		e->store_mem = NULL;
		return -errno;
	}
	if (*ret_found) {
		r = cop_store_open(e->store_mem, e->store_bytes, 0, &templates, &e->store);
		if (r != -EINVAL)
			return r;
		*ret_found = false; /* killed before it was made */
	}
	return cop_store_create(e->store_mem, e->store_bytes, 0, &templates, &e->store);
}

int cop_engine_init(struct cop_engine *e, int fd, uint64_t store_bytes, bool *ret_found)
{
	int r;

	*e = (struct cop_engine){.store_fd = fd, .store_bytes = store_bytes};
	(void)pthread_mutex_init(&e->lock, NULL); /* no attributes: cannot fail */
	e->by_domain = calloc(COP_MAX_DOMAIN + 1, sizeof(*e->by_domain));
	e->model = cop_model_new();
	if (e->model) {
		e->fault_decoder = cop_decoder_new(e->model);
		e->decoder = cop_decoder_new(e->model);
		e->encoder = cop_encoder_new(e->model);
	}
	r = e->by_domain && e->fault_decoder && e->decoder && e->encoder ? open_store(e, ret_found)
									 : -ENOMEM;
	if (r)
		cop_engine_done(e);
	return r;
}

void cop_engine_done(struct cop_engine *e)
{
	while (e->images)
		cop_image_free(e->images);
	cop_store_close(e->store);
	cop_encoder_free(e->encoder);
	cop_decoder_free(e->decoder);
	cop_decoder_free(e->fault_decoder);
	cop_model_free(e->model);
	free(e->by_domain);
	if (e->store_mem)
		munmap(e->store_mem, e->store_bytes);
	close(e->store_fd);
	(void)pthread_mutex_destroy(&e->lock);
	e->store = NULL;
}
