/* coder.c - the table of coders, and their working memory. */
#define ZSTD_STATIC_LINKING_ONLY
#include <stdlib.h>
#include <lz4.h>
#include <zstd.h>

#include "mem/coder.h"

const struct cop_coder cop_coders[COP_NR_CODERS] = {
	[COP_CODER_RAW] = {"raw", COP_DICT_NONE, 100, cop_raw_encode, cop_raw_decode},
	[COP_CODER_FILL] = {"fill", COP_DICT_NONE, 100, cop_fill_encode, cop_fill_decode},
	[COP_CODER_PATCH] = {"patch", COP_DICT_TEMPLATE, 200, cop_patch_encode, cop_patch_decode},
	[COP_CODER_PLZ] = {"plz", COP_DICT_NONE, 1500, cop_plz_encode, cop_plz_decode},
	[COP_CODER_PLZ_TEMPLATE] = {"plz-template", COP_DICT_TEMPLATE, 1600, cop_plz_encode,
				    cop_plz_decode},
	[COP_CODER_PLZ_LIKE] = {"plz-like", COP_DICT_RECORD, 3200, cop_plz_encode, cop_plz_decode},
	[COP_CODER_LZ4_TEMPLATE] = {"lz4-template", COP_DICT_TEMPLATE, 1000, cop_lz4_encode,
				    cop_lz4_decode},
	[COP_CODER_ZSTD_TEMPLATE] = {"zstd-template", COP_DICT_TEMPLATE, 4500, cop_zstd_encode,
				     cop_zstd_decode},
};

struct cop_model *cop_model_new(void)
{
	struct cop_model *m = malloc(sizeof(*m));

	if (m && cop_model_build(m, cop_model_default)) {
		free(m);
		return NULL;
	}
	return m;
}

void cop_model_free(struct cop_model *m)
{
	free(m);
}

struct cop_encoder *cop_encoder_new(const struct cop_model *m)
{
	struct cop_encoder *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->model = m;
	e->lz4 = LZ4_createStream();
	e->zstd = ZSTD_createCCtx();
	/* The first use at the level used later makes the context allocate what it needs. */
	if (!e->lz4 || !e->zstd || !cop_zstd_encode(e, e->window, e->window, 2, e->scratch)) {
		cop_encoder_free(e);
		return NULL;
	}
	return e;
}

void cop_encoder_free(struct cop_encoder *e)
{
	if (!e)
		return;
	LZ4_freeStream(e->lz4);
	ZSTD_freeCCtx(e->zstd);
	free(e);
}

struct cop_decoder *cop_decoder_new(const struct cop_model *m)
{
	struct cop_decoder *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->model = m;
	d->zstd = ZSTD_createDCtx();
	if (!d->zstd ||
	    ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_format, ZSTD_f_zstd1_magicless))) {
		cop_decoder_free(d);
		return NULL;
	}
	return d;
}

void cop_decoder_free(struct cop_decoder *d)
{
	if (!d)
		return;
	ZSTD_freeDCtx(d->zstd);
	free(d);
}
