/* mem-test.h - what the tests of src/mem share. */
#ifndef COP_MEM_TEST_H
#define COP_MEM_TEST_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "mem/ptab.h"
#include "pagegen.h"

struct codec {
	struct cop_model *model;
	struct cop_encoder *e;
	struct cop_decoder *d;
};

static inline struct codec codec_new(void)
{
	struct codec c = {.model = cop_model_new()};

	assert_non_null(c.model);
	c.e = cop_encoder_new(c.model);
	c.d = cop_decoder_new(c.model);
	assert_non_null(c.e);
	assert_non_null(c.d);
	return c;
}

static inline void codec_free(struct codec *c)
{
	cop_encoder_free(c->e);
	cop_decoder_free(c->d);
	cop_model_free(c->model);
}

/* A template whose page gfn is a heap page made of its number; domains differ. */
static inline int test_template(void *ctx, unsigned int domain, uint32_t gfn,
				const uint8_t **ret_page)
{
	static uint8_t page[COP_PAGE_BYTES], unused[COP_PAGE_BYTES];

	cop_pagegen(COP_PAGES_HEAP, domain, gfn, page, unused);
	*ret_page = page;
	return 0;
}

static const struct cop_templates test_templates = {.page = test_template};

/*
 * Content number `content` for page gfn: a few words of the template's page changed, a heap or text
 * page, a similar one, or random bytes. The same content of different pages is the same bytes
 * unless it is a patch.
 */
static inline void test_page(unsigned int domain, uint32_t gfn, uint32_t content, uint8_t *page)
{
	uint8_t unused[COP_PAGE_BYTES];
	const uint8_t *tmpl;

	switch (content % 6) {
	case 0:
	case 1:
		test_template(NULL, domain, gfn, &tmpl);
		memcpy(page, tmpl, COP_PAGE_BYTES);
		for (uint32_t i = 0; i <= content % 5; i++)
			cop_store32(page + (content * 52 + i * 340) % 4092, content + i);
		break;
	case 2:
		cop_pagegen(COP_PAGES_RELOCATED, 1, content, page, unused);
		break;
	case 3:
		cop_pagegen(COP_PAGES_HEAP, 99, content / 24, page, unused);
		cop_store64(page + content % 512 * 8, content);
		break;
	case 4:
		cop_pagegen(COP_PAGES_TEXT, 5, content, page, unused);
		break;
	default:
		if (content % 4 == 1) {
			cop_pagegen(COP_PAGES_RANDOM, 7, content, page, unused);
		} else {
			for (unsigned int i = 0; i < COP_PAGE_BYTES; i += 8)
				cop_store64(page + i, content);
		}
	}
}

#endif
