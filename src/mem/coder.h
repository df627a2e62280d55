/*
 * coder.h - the ways a page's bytes can be written down. One file and one row of a const table
 * each.
 *
 * A coder turns a page, and perhaps a dictionary page that the decoder will have too, into a
 * payload of 1..4096 bytes, and back. Coders do no I/O, take no lock and allocate nothing; they
 * know nothing of records, checksums or reference counts.
 *
 * A payload is not trusted: decode() reads and writes within its bounds whatever the bytes, and
 * returns 0 or -EBADMSG. It need not find every alteration (a changed literal is still a page): the
 * record's checksum does (store.h).
 */
#ifndef COP_MEM_CODER_H
#define COP_MEM_CODER_H

#include <assert.h>

#include "mem/huf.h"
#include "mem/lz.h"
#include "mem/model.h"
#include "mem/page.h"

#define COP_PAYLOAD_MAX COP_PAGE_BYTES

/* Where a coder's dictionary page comes from. */
enum cop_dict {
	COP_DICT_NONE,
	COP_DICT_TEMPLATE, /* the template's page at the same place */
	COP_DICT_RECORD,   /* the page of another record of the same trust domain */
};

/* Stored in records: never renumber. */
enum cop_coder_id {
	COP_CODER_RAW = 0,
	COP_CODER_FILL = 1,
	COP_CODER_PATCH = 2,
	COP_CODER_PLZ = 3,
	COP_CODER_PLZ_TEMPLATE = 4,
	COP_CODER_PLZ_LIKE = 5,
	COP_CODER_LZ4_TEMPLATE = 6,
	COP_CODER_ZSTD_TEMPLATE = 7,
	COP_NR_CODERS,
};

#define COP_PLZ_SLACK 64 /* bytes that copies may write beyond the page */

#define COP_PLZ_LENGTHS 4 /* length symbols of a sequence at most */

/* A sequence's lengths. */
struct cop_plz_seq {
	uint16_t literals;
	uint16_t copy;
};
static_assert(sizeof(struct cop_plz_seq) == 4, "written as one word");

/* Working memory of one thread that restores pages. */
struct cop_decoder {
	/* [dictionary][page]: contiguous, so that copies reach from one into the other. */
	uint8_t window[COP_LZ_MAX_DICT + COP_PAGE_BYTES + COP_PLZ_SLACK];
	uint8_t before[COP_HUF_SLACK];
	uint8_t payload[COP_PAYLOAD_MAX];
	uint8_t after[COP_HUF_SLACK];
	uint8_t literals[COP_PAGE_BYTES + COP_PLZ_SLACK];
	uint8_t tokens[COP_LZ_MAX_SEQS + 8];
	uint8_t distances[COP_LZ_MAX_SEQS + 8];
	uint8_t lengths[COP_PLZ_LENGTHS * COP_LZ_MAX_SEQS + 8];
	struct cop_plz_seq seqs[COP_LZ_MAX_SEQS];
	uint16_t far[1 + COP_LZ_MAX_SEQS]; /* distances; the first is that before any */
	struct ZSTD_DCtx_s *zstd;
	const struct cop_model *model;
};

/* Working memory of one thread that evicts pages. */
struct cop_encoder {
	struct cop_lz lz;
	uint8_t window[COP_LZ_WINDOW];
	uint8_t literals[COP_PAGE_BYTES + COP_PLZ_SLACK];
	uint8_t tokens[COP_LZ_MAX_SEQS];
	uint8_t distances[COP_LZ_MAX_SEQS];
	uint8_t lengths[COP_PLZ_LENGTHS * COP_LZ_MAX_SEQS];
	uint8_t sections[4 * COP_HUF_SLACK];
	uint8_t scratch[2 * COP_PAGE_BYTES + 512];
	uint8_t template_page[COP_PAGE_BYTES]; /* the store's: dictionaries of the page being coded
						*/
	uint8_t like_page[COP_PAGE_BYTES];
	uint16_t count[COP_NR_ALPHABETS][COP_HUF_SYMBOLS];
	struct ZSTD_CCtx_s *zstd;
	union LZ4_stream_u *lz4;
	const struct cop_model *model;
};

struct cop_coder {
	const char *name; /* the word used in statistics */
	enum cop_dict dict;
	unsigned int decode_ns; /* typical, for the choice between coders */
	/*
	 * Codes page (4096 bytes). dict: the dictionary page, or NULL if the coder has none. level:
	 * effort, 0 fast, 1 usual, 2 hard. dst has room for COP_PAYLOAD_MAX bytes. Returns the
	 * payload's bytes, or 0 if this coder doesn't fit or doesn't make the page smaller.
	 */
	size_t (*encode)(struct cop_encoder *e, const uint8_t *page, const uint8_t *dict, int level,
			 uint8_t *dst);
	/*
	 * Writes the page to cop_decoder_page(d). dict as for encode(). 0 or -EBADMSG.
	 */
	int (*decode)(struct cop_decoder *d, const uint8_t *payload, size_t len_bytes,
		      const uint8_t *dict);
};

extern const struct cop_coder cop_coders[COP_NR_CODERS];

/*
 * NULL: out of memory. All that a coder will ever need is allocated here. The caller frees them; a
 * model outlives the encoders and decoders made with it.
 */
struct cop_model *cop_model_new(void);
void cop_model_free(struct cop_model *m);
struct cop_encoder *cop_encoder_new(const struct cop_model *m);
void cop_encoder_free(struct cop_encoder *e);
struct cop_decoder *cop_decoder_new(const struct cop_model *m);
void cop_decoder_free(struct cop_decoder *d);

/* Where decoders leave a page: valid until the decoder is used again. */
static inline uint8_t *cop_decoder_page(struct cop_decoder *d)
{
	return d->window + COP_LZ_MAX_DICT;
}

/* The rows' functions, one file each (coder-*.c). */
size_t cop_raw_encode(struct cop_encoder *, const uint8_t *, const uint8_t *, int, uint8_t *);
int cop_raw_decode(struct cop_decoder *, const uint8_t *, size_t, const uint8_t *);
size_t cop_fill_encode(struct cop_encoder *, const uint8_t *, const uint8_t *, int, uint8_t *);
int cop_fill_decode(struct cop_decoder *, const uint8_t *, size_t, const uint8_t *);
size_t cop_patch_encode(struct cop_encoder *, const uint8_t *, const uint8_t *, int, uint8_t *);
int cop_patch_decode(struct cop_decoder *, const uint8_t *, size_t, const uint8_t *);
size_t cop_plz_encode(struct cop_encoder *, const uint8_t *, const uint8_t *, int, uint8_t *);
int cop_plz_decode(struct cop_decoder *, const uint8_t *, size_t, const uint8_t *);
size_t cop_lz4_encode(struct cop_encoder *, const uint8_t *, const uint8_t *, int, uint8_t *);
int cop_lz4_decode(struct cop_decoder *, const uint8_t *, size_t, const uint8_t *);
size_t cop_zstd_encode(struct cop_encoder *, const uint8_t *, const uint8_t *, int, uint8_t *);
int cop_zstd_decode(struct cop_decoder *, const uint8_t *, size_t, const uint8_t *);

#endif
