/*
 * coder-plz.c - the engine's own coder: LZ over (dictionary, page), its parts coded with Huffman
 * tables that stand ready.
 *
 * Purpose: the size of zstd at a fraction of its decoding time. zstd spends more than half of a
 * page's decoding on building tables; here a payload names tables (model.h). The dictionary may be
 * absent: then the window starts with the page.
 *
 * Data: u8 literal table | token table << 4; u8 distance table | lengths table << 3 | raw literals
 * << 6; then numbers in LEB128: nr_seqs; nr_literals; unless raw, bytes of the literal section, and
 * if nr_literals >= 256 its first half's; if nr_seqs, bytes of the token section, number of
 * distance symbols, bytes of the distance section, number of length symbols. Then the sections:
 *
 * - literals: raw, or a pair of streams towards each other (huf.h), or from 256 on two such pairs;
 * - tokens: a pair, one token a sequence;
 * - distances: a pair;
 * - rest: from its start, the distances' extra bits, least significant first; from its end,
 *   backward, length symbols.
 *
 * A token: literals 0..6, 7 = 7 + a length | (copy bytes - 3) 0..14, 15 = 15 + a length << 3 | last
 * distance again << 7. A length: symbol s < 192; else two symbols, 192 + (s - 192) * 128 + the
 * second. Distance symbol: 0, 1 = second, third most recent distance; 2..11 = 8 * (1 << (s - 2) +
 * that many extra bits); 16..28 = 1 << (s - 16) + that many extra bits.
 *
 * Valid if and only if: every stream fills its section, all sequences stay inside the window,
 * literals are used up, and the page is full at the end.
 */
#include <errno.h>

#include "mem/coder.h"

enum {
	TOKEN_LITERALS_MAX = 7,
	TOKEN_COPY_MAX = 15,
	TOKEN_RECENT = 128,
	LENGTH_DIRECT = 192,
	LENGTH_LOW_BITS = 7,
	DISTANCE_ALIGNED = 2,
	DISTANCE_PLAIN = 16,
	PAIRS_FROM = 256, /* literals from which two pairs of streams are used */
	RAW_FLAG = 64,
};

struct bits {
	uint8_t *p;
	uint64_t acc;
	unsigned int fill;
};

static inline void put_bits(struct bits *b, unsigned int v, unsigned int n)
{
	b->acc |= (uint64_t)v << b->fill;
	b->fill += n;
	if (b->fill >= 32) {
		cop_store32(b->p, b->acc);
		b->p += 4;
		b->acc >>= 32;
		b->fill -= 32;
	}
}

static inline uint8_t distance_symbol(struct bits *extra, const struct cop_lz_seq *s)
{
	unsigned int v = s->distance, base = DISTANCE_PLAIN, n;

	if (s->recent)
		return s->recent - 2;
	if (!(v & 7)) {
		v >>= 3;
		base = DISTANCE_ALIGNED;
	}
	n = 31 - __builtin_clz(v);
	put_bits(extra, v - (1u << n), n);
	return base + n;
}

static inline uint8_t *put_leb(uint8_t *p, unsigned int v)
{
	if (v >= 128)
		*p++ = v | 128;
	*p++ = v >> (v >= 128 ? 7 : 0);
	return p;
}

struct parts {
	size_t nr_tokens, nr_distances, nr_lengths;
	struct bits extra;
};

static inline void put_length_symbol(struct cop_encoder *e, struct parts *p, unsigned int symbol)
{
	e->lengths[p->nr_lengths++] = symbol;
	e->count[COP_LENGTHS][symbol]++;
}

static inline void put_length(struct cop_encoder *e, struct parts *p, unsigned int v)
{
	if (v < LENGTH_DIRECT) {
		put_length_symbol(e, p, v);
		return;
	}
	v -= LENGTH_DIRECT;
	put_length_symbol(e, p, LENGTH_DIRECT + (v >> LENGTH_LOW_BITS));
	put_length_symbol(e, p, v & ((1u << LENGTH_LOW_BITS) - 1));
}

/* Turns sequences into the four streams of symbols, and counts them. */
static void split(struct cop_encoder *e, const uint8_t *page, uint8_t *extra, struct parts *ret)
{
	struct parts p = {.extra.p = extra};
	const uint8_t *end = page + COP_PAGE_BYTES;
	uint8_t *lit = e->literals;

	memset(e->count, 0, sizeof(e->count));
	for (unsigned int i = 0; i < e->lz.nr_seqs; i++) {
		const struct cop_lz_seq *s = &e->lz.seqs[i];
		unsigned int literals = s->literal_bytes, copy = s->copy_bytes - COP_LZ_MIN_MATCH;
		unsigned int token = s->recent == 1 ? TOKEN_RECENT : 0;

		if (literals <= 16 && page + 16 <= end)
			memcpy(lit, page, 16);
		else
			memcpy(lit, page, literals);
		lit += literals;
		page += literals + s->copy_bytes;
		if (literals >= TOKEN_LITERALS_MAX) {
			put_length(e, &p, literals - TOKEN_LITERALS_MAX);
			literals = TOKEN_LITERALS_MAX;
		}
		if (copy >= TOKEN_COPY_MAX) {
			put_length(e, &p, copy - TOKEN_COPY_MAX);
			copy = TOKEN_COPY_MAX;
		}
		if (s->recent != 1) {
			e->distances[p.nr_distances] = distance_symbol(&p.extra, s);
			e->count[COP_DISTANCES][e->distances[p.nr_distances++]]++;
		}
		token |= copy << 3 | literals;
		e->tokens[p.nr_tokens++] = token;
		e->count[COP_TOKENS][token]++;
	}
	memcpy(lit, page, end - page);
	for (unsigned int k = 0; k < e->lz.nr_literals; k++)
		e->count[COP_LITERALS][e->literals[k]]++;
	*ret = p;
}

size_t cop_plz_encode(struct cop_encoder *e, const uint8_t *page, const uint8_t *dict, int level,
		      uint8_t *dst)
{
	const struct cop_huf(*table)[COP_MODEL_TABLES] = e->model->table;
	size_t dict_bytes = dict ? COP_PAGE_BYTES : 0, n, mid_bytes = 0, literal_bytes;
	uint8_t extra[COP_LZ_MAX_SEQS * 4 + 8], *out = e->sections, *p = dst;
	unsigned int choice[COP_NR_ALPHABETS], bits[COP_NR_ALPHABETS], token_bytes, distance_bytes;
	struct parts s;

	if (dict) {
		memcpy(e->window, dict, COP_PAGE_BYTES);
		memcpy(e->window + COP_PAGE_BYTES, page, COP_PAGE_BYTES);
		cop_lz_parse(&e->lz, e->window, dict_bytes, level);
	} else {
		cop_lz_parse(&e->lz, page, 0, level);
	}
	split(e, page, extra, &s);
	for (unsigned int a = 0; a < COP_NR_ALPHABETS; a++)
		choice[a] = cop_model_choose(e->model, a, e->count[a], &bits[a]);
	n = e->lz.nr_literals;
	p[0] = choice[COP_LITERALS] | choice[COP_TOKENS] << 4;
	p[1] = choice[COP_DISTANCES] | choice[COP_LENGTHS] << 3;
	p += 2;
	p = put_leb(p, s.nr_tokens);
	p = put_leb(p, n);
	/* Coding literals must gain 1/32 of them, or reading them isn't worth the time. */
	if (bits[COP_LITERALS] / 8 + n / 32 + 4 >= n) {
		dst[1] |= RAW_FLAG;
		memcpy(out, e->literals, n);
		literal_bytes = n;
	} else {
		const struct cop_huf *h = &table[COP_LITERALS][choice[COP_LITERALS]];
		const uint8_t *lit = e->literals;

		if (n >= PAIRS_FROM) {
			size_t half = cop_huf_half(n);

			mid_bytes = cop_huf_encode_pair(h, lit, half, out);
			literal_bytes = mid_bytes + cop_huf_encode_pair(h, lit + half, n - half,
									out + mid_bytes);
		} else {
			literal_bytes = cop_huf_encode_pair(h, lit, n, out);
		}
		p = put_leb(p, literal_bytes);
		if (n >= PAIRS_FROM)
			p = put_leb(p, mid_bytes);
	}
	out += literal_bytes;
	if (s.nr_tokens) {
		token_bytes = cop_huf_encode_pair(&table[COP_TOKENS][choice[COP_TOKENS]], e->tokens,
						  s.nr_tokens, out);
		out += token_bytes;
		distance_bytes = cop_huf_encode_pair(&table[COP_DISTANCES][choice[COP_DISTANCES]],
						     e->distances, s.nr_distances, out);
		out += distance_bytes;
		p = put_leb(p, token_bytes);
		p = put_leb(p, s.nr_distances);
		p = put_leb(p, distance_bytes);
		p = put_leb(p, s.nr_lengths);
	}
	cop_store32(s.extra.p, s.extra.acc);
	n = s.extra.p + (s.extra.fill + 7) / 8 - extra;
	memcpy(out, extra, n);
	out += n;
	out += cop_huf_encode(&table[COP_LENGTHS][choice[COP_LENGTHS]], e->lengths, s.nr_lengths,
			      true, out);
	n = out - e->sections;
	if (p - dst + n >= COP_PAYLOAD_MAX)
		return 0;
	memcpy(p, e->sections, n);
	return p - dst + n;
}

struct header {
	unsigned int literal_table, token_table, distance_table, length_table;
	bool raw;
	unsigned int nr_seqs, nr_literals, literal_bytes, mid_bytes;
	unsigned int token_bytes, nr_distances, distance_bytes, nr_lengths;
};

static const uint8_t *get_leb(const uint8_t *p, const uint8_t *end, unsigned int *ret)
{
	if (!p || p >= end)
		return NULL;
	*ret = *p++;
	if (*ret & 128) {
		if (p >= end)
			return NULL;
		*ret = (*ret & 127) | (unsigned int)*p++ << 7;
	}
	return p;
}

/* Returns the first section, or NULL if the header can't be right. All sections then lie before
 * end. */
static const uint8_t *parse_header(const uint8_t *p, const uint8_t *end, struct header *h)
{
	if (end - p < 4)
		return NULL;
	*h = (struct header){
		.literal_table = p[0] & 15,
		.token_table = p[0] >> 4,
		.distance_table = p[1] & 7,
		.length_table = p[1] >> 3 & 7,
		.raw = p[1] & RAW_FLAG,
	};
	if (p[1] & 128)
		return NULL;
	p = get_leb(p + 2, end, &h->nr_seqs);
	p = get_leb(p, end, &h->nr_literals);
	if (!p || h->nr_seqs > COP_LZ_MAX_SEQS || h->nr_literals > COP_PAGE_BYTES)
		return NULL;
	h->literal_bytes = h->nr_literals;
	if (!h->raw) {
		p = get_leb(p, end, &h->literal_bytes);
		if (h->nr_literals >= PAIRS_FROM)
			p = get_leb(p, end, &h->mid_bytes);
	}
	if (h->nr_seqs) {
		p = get_leb(p, end, &h->token_bytes);
		p = get_leb(p, end, &h->nr_distances);
		p = get_leb(p, end, &h->distance_bytes);
		p = get_leb(p, end, &h->nr_lengths);
	}
	if (!p || h->literal_bytes + h->token_bytes + h->distance_bytes > (size_t)(end - p) ||
	    h->nr_distances > h->nr_seqs || h->nr_lengths > COP_PLZ_LENGTHS * h->nr_seqs ||
	    h->nr_lengths > COP_HUF_MAX_COUNT)
		return NULL;
	return p;
}

static int get_literals(struct cop_decoder *d, const struct header *h, const uint8_t *section)
{
	const struct cop_huf *t = &d->model->table[COP_LITERALS][h->literal_table];

	if (h->nr_literals >= PAIRS_FROM)
		return cop_huf_decode4(t, d->literals, h->nr_literals, section, h->mid_bytes,
				       h->literal_bytes);
	return cop_huf_decode_pair(t, d->literals, h->nr_literals, section, h->literal_bytes);
}

/* Tokens, distances and lengths, from where the tokens are to end. What is left for extra bits:
 * *ret_extra, *ret_extra_bytes. */
static int get_symbols(struct cop_decoder *d, const struct header *h, const uint8_t *section,
		       const uint8_t *end, const uint8_t **ret_extra, size_t *ret_extra_bytes)
{
	const uint8_t *rest = section + h->token_bytes + h->distance_bytes;
	const struct cop_huf_part tokens = {
		&d->model->table[COP_TOKENS][h->token_table],
		d->tokens,
		h->nr_seqs,
		section,
		h->token_bytes,
	};
	const struct cop_huf_part distances = {
		&d->model->table[COP_DISTANCES][h->distance_table],
		d->distances,
		h->nr_distances,
		section + h->token_bytes,
		h->distance_bytes,
	};
	const struct cop_huf_part lengths = {
		&d->model->table[COP_LENGTHS][h->length_table],
		d->lengths,
		h->nr_lengths,
		rest,
		end - rest,
	};
	size_t lengths_bytes;
	int r = cop_huf_decode_mixed(&tokens, &distances, &lengths, &lengths_bytes);

	*ret_extra = rest;
	*ret_extra_bytes = end - rest - lengths_bytes;
	return r;
}

/* Literals, copy, and in the highest bit whether a length follows, of every token. */
#define TOKEN(t)                                                                                   \
	(((t)&7) | (uint32_t)(((t) >> 3 & 15) + COP_LZ_MIN_MATCH) << 16 |                          \
	 (uint32_t)(((t)&7) == TOKEN_LITERALS_MAX || ((t) >> 3 & 15) == TOKEN_COPY_MAX) << 31)
#define TOKENS4(t)  TOKEN(t), TOKEN((t) + 1), TOKEN((t) + 2), TOKEN((t) + 3)
#define TOKENS16(t) TOKENS4(t), TOKENS4((t) + 4), TOKENS4((t) + 8), TOKENS4((t) + 12)
#define TOKENS64(t) TOKENS16(t), TOKENS16((t) + 16), TOKENS16((t) + 32), TOKENS16((t) + 48)
static const uint32_t token_lengths[256] = {TOKENS64(0), TOKENS64(64), TOKENS64(128),
					    TOKENS64(192)};

static inline unsigned int get_length(const uint8_t **lengths, bool more)
{
	unsigned int v = **lengths & -(unsigned int)more;

	*lengths += more;
	if (__builtin_expect(v >= LENGTH_DIRECT, 0))
		v = LENGTH_DIRECT + ((v - LENGTH_DIRECT) << LENGTH_LOW_BITS) + *(*lengths)++;
	return v;
}

/*
 * Turns tokens and lengths into numbers, d->seqs, and makes sure that literals and page have room
 * for them. Which tokens have lengths can't be predicted, so that there is no branch on it: these
 * are listed, then visited. Reading too many lengths finds old ones.
 */
static int resolve_lengths(struct cop_decoder *d, const struct header *h)
{
	const uint8_t *lengths = d->lengths;
	unsigned int nr_seqs = h->nr_seqs, nr_long, literals, copied;
	uint64_t sum = 0; /* literals; from bit 16, copies; from bit 31, tokens with lengths */
	uint16_t at[COP_LZ_MAX_SEQS + 1];

	for (unsigned int i = 0; i < nr_seqs; i++) {
		uint32_t v = token_lengths[d->tokens[i]];

		at[sum >> 31] = i;
		sum += v;
		cop_store32((uint8_t *)&d->seqs[i], v);
	}
	literals = sum & 0xffff;
	copied = sum >> 16 & 0x7fff;
	nr_long = sum >> 31;
	for (unsigned int k = 0; k < nr_long; k++) {
		struct cop_plz_seq *s = &d->seqs[at[k]];
		unsigned int v;

		s->copy &= 0x7fff;
		v = get_length(&lengths, s->literals == TOKEN_LITERALS_MAX);
		s->literals += v;
		literals += v;
		v = get_length(&lengths, s->copy == TOKEN_COPY_MAX + COP_LZ_MIN_MATCH);
		s->copy += v;
		copied += v;
	}
	if (lengths != d->lengths + h->nr_lengths || literals > h->nr_literals ||
	    copied + h->nr_literals != COP_PAGE_BYTES)
		return -EBADMSG;
	return 0;
}

/*
 * What a distance symbol means: base + (extra bits << shift), or the second or third most recent
 * one, as masks, so that there is no branch on it: it can't be predicted. A distance that no window
 * has: 0.
 */
#define PLAIN(n)                                                                                   \
	{                                                                                          \
		1u << (n), (1u << (n)) - 1, 0, 0, n, 0                                             \
	}
#define ALIGNED(n)                                                                                 \
	{                                                                                          \
		8u << (n), (1u << (n)) - 1, 0, 0, n, 3                                             \
	}
#define RECENT(member)                                                                             \
	{                                                                                          \
		.member = 0xffff                                                                   \
	}
#define NOWHERE                                                                                    \
	{                                                                                          \
		0                                                                                  \
	}
static const struct {
	uint16_t base, mask, second, third;
	uint32_t bits, shift;
} distance_symbols[COP_NR_DISTANCE_SYMBOLS] = {
	RECENT(second), RECENT(third), ALIGNED(0), ALIGNED(1), ALIGNED(2), ALIGNED(3), ALIGNED(4),
	ALIGNED(5),	ALIGNED(6),    ALIGNED(7), ALIGNED(8), ALIGNED(9), NOWHERE,    NOWHERE,
	NOWHERE,	NOWHERE,       PLAIN(0),   PLAIN(1),   PLAIN(2),   PLAIN(3),   PLAIN(4),
	PLAIN(5),	PLAIN(6),      PLAIN(7),   PLAIN(8),   PLAIN(9),   PLAIN(10),  PLAIN(11),
	PLAIN(12),	NOWHERE,       NOWHERE,	   NOWHERE,
};

/*
 * Turns distance symbols into numbers, d->far; before them stands the one that "again" means at the
 * start. Nothing is checked but that the extra bits are used up: reading beyond the payload is
 * harmless (less than 2 bytes a symbol, COP_HUF_SLACK) and found at the end.
 */
static int resolve_distances(struct cop_decoder *d, const struct header *h, const uint8_t *extra,
			     size_t extra_bytes, size_t dict_bytes)
{
	unsigned int nr = h->nr_distances, bit = 0, a, b, c;
	uint16_t first[COP_LZ_NR_DISTANCES];

	cop_lz_first_distances(dict_bytes, first);
	a = first[0];
	b = first[1];
	c = first[2];
	d->far[0] = a;
	for (unsigned int i = 0; i < nr; i++) {
		const typeof(distance_symbols[0]) *s = &distance_symbols[d->distances[i]];
		unsigned int v = cop_load32(extra + (bit >> 3)) >> (bit & 7) & s->mask;

		v = (s->base + (v << s->shift)) | (b & s->second) | (c & s->third);
		bit += s->bits;
		/* The one used comes to the front; those before it move up. */
		c = b ^ ((b ^ c) & s->second);
		b = a;
		a = v;
		d->far[i + 1] = v;
	}
	return (bit + 7) / 8 == extra_bytes ? 0 : -EBADMSG;
}

/*
 * Copies `bytes` from `distance` back, writing up to 31 bytes more. A pattern shorter than a word
 * is first spread over one: from there on it also repeats at a multiple of its length that is a
 * word or more. Six of seven copies have 16 bytes or less.
 */
static inline void copy_back(uint8_t *to, size_t distance, size_t bytes)
{
	static const uint64_t spread[8] = {
		0,
		0x0101010101010101,
		0x0001000100010001,
		0x0001000001000001,
		0x0000000100000001,
		0x0000010000000001,
		0x0001000000000001,
		0x0100000000000001,
	};
	static const uint8_t multiple[8] = {0, 8, 8, 9, 8, 10, 12, 14};
	uint8_t *end = to + bytes;
	const uint8_t *from;

	if (distance < 8) {
		uint64_t pattern = cop_load64(to - distance) & ((1ull << 8 * distance) - 1);

		cop_store64(to, pattern * spread[distance]);
		to += 8;
		distance = multiple[distance];
	}
	from = to - distance;
	memcpy(to, from, 8);
	memcpy(to + 8, from + 8, 8);
	to += 16;
	from += 16;
	while (to < end) {
		memcpy(to, from, 8);
		memcpy(to + 8, from + 8, 8);
		memcpy(to + 16, from + 16, 8);
		memcpy(to + 24, from + 24, 8);
		to += 32;
		from += 32;
	}
}

/* Runs the sequences. Lengths are right, all together; distances are checked here, against the
 * window. */
static int run(struct cop_decoder *d, const struct header *h, const uint8_t *literals,
	       size_t dict_bytes)
{
	uint8_t *page = cop_decoder_page(d), *start = page - dict_bytes, *to = page;
	const uint16_t *far = d->far;

	for (unsigned int i = 0; i < h->nr_seqs; i++) {
		struct cop_plz_seq s = d->seqs[i];
		size_t distance;

		far += d->tokens[i] < TOKEN_RECENT;
		distance = *far;
		memcpy(to, literals, 16);
		memcpy(to + 16, literals + 16, 16);
		if (__builtin_expect(s.literals > 32, 0))
			memcpy(to + 32, literals + 32, s.literals - 32);
		to += s.literals;
		literals += s.literals;
		if (distance - 1 >= (size_t)(to - start))
			return -EBADMSG;
		copy_back(to, distance, s.copy);
		to += s.copy;
	}
	if (far != d->far + h->nr_distances)
		return -EBADMSG;
	memcpy(to, literals, page + COP_PAGE_BYTES - to);
	return 0;
}

int cop_plz_decode(struct cop_decoder *d, const uint8_t *payload, size_t len_bytes,
		   const uint8_t *dict)
{
	const uint8_t *section, *end = d->payload + len_bytes, *literals, *extra;
	size_t dict_bytes = dict ? COP_PAGE_BYTES : 0, extra_bytes;
	struct header h;
	int r;

	if (len_bytes > COP_PAYLOAD_MAX)
		return -EBADMSG;
	/* A copy with room around it: bit readers then need no bounds until the end, and nobody can
	 * change it meanwhile. */
	memcpy(d->payload, payload, len_bytes);
	section = parse_header(d->payload, end, &h);
	if (!section)
		return -EBADMSG;
	literals = section;
	if (!h.raw) {
		r = get_literals(d, &h, section);
		if (r)
			return r;
		literals = d->literals;
	}
	r = get_symbols(d, &h, section + h.literal_bytes, end, &extra, &extra_bytes);
	if (r)
		return r;
	if (dict && dict != d->window)
		memcpy(d->window, dict, COP_PAGE_BYTES);
	r = resolve_lengths(d, &h);
	if (!r)
		r = resolve_distances(d, &h, extra, extra_bytes, dict_bytes);
	if (r)
		return r;
	return run(d, &h, literals, dict_bytes);
}
