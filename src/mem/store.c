/* store.c - put, get, holders: see store.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "mem/store-impl.h"

static uint32_t record_size(unsigned int coder, uint32_t len_bytes)
{
	uint32_t n = sizeof(struct cop_record) + len_bytes;

	if (cop_coders[coder].dict != COP_DICT_NONE)
		n += 4;
	return (n + COP_UNIT_BYTES - 1) / COP_UNIT_BYTES * COP_UNIT_BYTES;
}

int cop_record_view(const struct cop_store *s, size_t offset, struct cop_record_view *ret)
{
	size_t room = COP_SEGMENT_BYTES - offset % COP_SEGMENT_BYTES;
	const uint8_t *p = s->arena.mem + offset;
	struct cop_record h;

	if (room < sizeof(h) + COP_UNIT_BYTES ||
	    offset > (size_t)s->arena.nr_blocks * COP_BLOCK_BYTES - sizeof(h))
		return -EBADMSG;
	memcpy(&h, p, sizeof(h));
	*ret = (struct cop_record_view){
		.check = h.check,
		.slot = h.slot_coder & (COP_MAX_RECORDS - 1),
		.coder = h.slot_coder >> 28,
		.domain = h.len_domain >> 12 & 0xffff,
		.len_bytes = (h.len_domain & 0xfff) + 1,
		.payload = p + sizeof(h),
	};
	if (ret->coder >= COP_NR_CODERS || h.len_domain >> 28)
		return -EBADMSG;
	ret->size_bytes = record_size(ret->coder, ret->len_bytes);
	if (ret->size_bytes > room)
		return -EBADMSG;
	if (cop_coders[ret->coder].dict != COP_DICT_NONE) {
		ret->dict = cop_load32(ret->payload);
		ret->payload += 4;
	}
	return 0;
}

int cop_record_of(const struct cop_store *s, uint32_t slot, struct cop_record_view *ret)
{
	size_t offset;
	int r;

	if (!slot || slot >= s->nr_slots)
		return -ENOENT;
	offset = cop_slot_offset(cop_slot_get(s, slot));
	if (!offset)
		return -ENOENT;
	r = cop_record_view(s, offset, ret);
	if (!r && ret->slot != slot)
		r = -EBADMSG;
	return r;
}

static uint64_t check_of(const void *ctx, uint32_t slot)
{
	struct cop_record_view v;

	/* Indexed slots name records (invariant 1); a damaged header only makes the index find
	 * less. */
	return cop_record_of(ctx, slot, &v) ? 0 : v.check;
}

static int get_template(const struct cop_store *s, unsigned int domain, uint32_t gfn,
			const uint8_t **ret)
{
	if (!s->templates.page)
		return -EBADMSG;
	return s->templates.page(s->templates.ctx, domain, gfn, ret);
}

/* Decodes and verifies. base: whether a record that this one is coded against may be followed. */
static int restore(const struct cop_store *s, struct cop_decoder *d, unsigned int domain,
		   uint32_t slot, bool may_follow)
{
	struct cop_record_view v;
	const uint8_t *dict = NULL;
	int r = cop_record_of(s, slot, &v);

	if (r)
		return r;
	if (v.domain != domain)
		return -EBADMSG;
	switch (cop_coders[v.coder].dict) {
	case COP_DICT_NONE:
		break;
	case COP_DICT_TEMPLATE:
		r = get_template(s, domain, v.dict, &dict);
		break;
	case COP_DICT_RECORD:
		r = may_follow ? restore(s, d, domain, v.dict, false) : -EBADMSG;
		if (r == -ENOENT)
			r = -EBADMSG;
		/* The dictionary's place in the window: the coder finds it there already. */
		memcpy(d->window, cop_decoder_page(d), COP_PAGE_BYTES);
		dict = d->window;
		break;
	}
	if (r)
		return r;
	r = cop_coders[v.coder].decode(d, v.payload, v.len_bytes, dict);
	if (!r && cop_page_check(cop_decoder_page(d), domain) != v.check)
		r = -EBADMSG;
	return r;
}

int cop_store_get(const struct cop_store *s, struct cop_decoder *d, unsigned int domain,
		  uint32_t record, const uint8_t **ret_page)
{
	int r = restore(s, d, domain, record, true);

	if (!r)
		*ret_page = cop_decoder_page(d);
	return r;
}

unsigned int cop_store_tag(const struct cop_store *s, uint32_t record)
{
	return check_of(s, record) >> 40 & 255;
}

void cop_store_ref(struct cop_store *s, uint32_t record)
{
	uint64_t word = cop_slot_get(s, record);

	assert(cop_slot_offset(word) && cop_slot_holders(word) &&
	       cop_slot_holders(word) < COP_SLOT_MAX_HOLDERS);
	cop_arena_set64(&s->arena, cop_slot_at(s, record), word + cop_slot_word(0, 1));
	s->stats.holders++;
}

static void account(struct cop_store *s, const struct cop_record_view *v, int sign)
{
	s->stats.records += sign;
	s->stats.live_bytes += sign * (int64_t)v->size_bytes;
	s->stats.coder_records[v->coder] += sign;
	s->stats.coder_bytes[v->coder] += sign * (int64_t)v->len_bytes;
}

void cop_store_unref(struct cop_store *s, uint32_t record)
{
	for (;;) {
		uint64_t word = cop_slot_get(s, record);
		struct cop_record_view v;
		int r;

		assert(cop_slot_offset(word) && cop_slot_holders(word));
		s->stats.holders--;
		if (cop_slot_holders(word) > 1) {
			cop_arena_set64(&s->arena, cop_slot_at(s, record),
					word - cop_slot_word(0, 1));
			return;
		}
		r = cop_record_of(s, record, &v);
		if (r) {
			/* Damaged: nobody can say how long it is. Its slot goes, its bytes stay
			 * until the next open. */
			cop_slot_give(s, record);
			return;
		}
		cop_index_remove(&s->hashes, v.check, record, check_of, s);
		account(s, &v, -1);
		cop_slot_give(s, record);
		cop_log_dead(s, cop_slot_offset(word), v.size_bytes);
		if (cop_coders[v.coder].dict != COP_DICT_RECORD)
			return;
		record = v.dict;
	}
}

/* A record with exactly this page. Compared, not believed. */
static uint32_t find_equal(const struct cop_store *s, struct cop_decoder *d, unsigned int domain,
			   uint64_t check, const uint8_t *page)
{
	uint32_t cursor = 0, slot;

	while ((slot = cop_index_find(&s->hashes, check, &cursor))) {
		struct cop_record_view v;
		const uint8_t *have;

		if (cop_record_of(s, slot, &v) || v.check != check || v.domain != domain ||
		    cop_slot_holders(cop_slot_get(s, slot)) == COP_SLOT_MAX_HOLDERS)
			continue;
		if (!cop_store_get(s, d, domain, slot, &have) && cop_page_equal(have, page))
			return slot;
	}
	return 0;
}

/* A payload that stands for the page, and what it costs. */
struct choice {
	unsigned int coder;
	uint32_t len_bytes, dict, cost;
	uint8_t payload[COP_PAYLOAD_MAX];
};

/* What a stored byte and a nanosecond of every later restore are worth to each other. */
#define NS_PER_BYTE 40

/* Lets a coder try; keeps its payload in `best` if that is cheaper. */
static void try_coder(struct cop_encoder *e, unsigned int coder, const uint8_t *page,
		      const uint8_t *dict, uint32_t dict_name, int level, struct choice *best)
{
	uint8_t payload[COP_PAYLOAD_MAX];
	size_t n = cop_coders[coder].encode(e, page, dict, level, payload);
	uint32_t cost;

	if (!n)
		return;
	cost = record_size(coder, n) + cop_coders[coder].decode_ns / NS_PER_BYTE;
	if (cost >= best->cost)
		return;
	best->coder = coder;
	best->len_bytes = n;
	best->dict = dict_name;
	best->cost = cost;
	memcpy(best->payload, payload, n);
}

/* A patch this short isn't worth another coder's attempt. */
#define SHORT_PATCH_BYTES 96
/* Words that must stand where the template has them too, or it is left out of plz: then restoring
 * needn't wait for it. */
#define LEAST_TEMPLATE_WORDS  16
#define LEAST_SHARED_FEATURES 2
#define LEAST_LIKE_BYTES      (COP_PAGE_BYTES / 4)

struct task {
	unsigned int domain;
	uint32_t gfn, like; /* COP_NO_TEMPLATE, COP_RECORD_NONE: none */
	const uint8_t *page;
	const uint8_t *dict[3]; /* by enum cop_dict; copies that stay */
	int level;
};

static bool template_helps(const uint8_t *page, const uint8_t *tmpl)
{
	unsigned int same = 0;

	for (unsigned int i = 0; i < COP_PAGE_WORDS; i++) {
		uint64_t word = cop_load64(page + 8 * i);

		same += word && word == cop_load64(tmpl + 8 * i);
	}
	return same >= LEAST_TEMPLATE_WORDS;
}

static void choose(struct cop_encoder *e, const struct task *t, struct choice *best)
{
	const uint8_t *tmpl = t->dict[COP_DICT_TEMPLATE], *like = t->dict[COP_DICT_RECORD];
	bool helps = tmpl && template_helps(t->page, tmpl), like_helps = false;

	best->cost = UINT32_MAX;
	try_coder(e, COP_CODER_FILL, t->page, NULL, 0, t->level, best);
	if (best->cost != UINT32_MAX)
		return;
	if (helps) {
		try_coder(e, COP_CODER_PATCH, t->page, tmpl, t->gfn, t->level, best);
		if (best->cost != UINT32_MAX && best->len_bytes <= SHORT_PATCH_BYTES)
			return;
		try_coder(e, COP_CODER_PLZ_TEMPLATE, t->page, tmpl, t->gfn, t->level, best);
	}
	/* The similar page first: where it gives much, a second search of the page alone isn't
	 * worth its time. */
	if (like) {
		try_coder(e, COP_CODER_PLZ_LIKE, t->page, like, t->like, t->level, best);
		like_helps = e->lz.dict_copy_bytes >= LEAST_LIKE_BYTES;
	}
	if ((!helps && !like_helps) || t->level >= 2)
		try_coder(e, COP_CODER_PLZ, t->page, NULL, 0, t->level, best);
	if (t->level >= 2 && tmpl) {
		try_coder(e, COP_CODER_LZ4_TEMPLATE, t->page, tmpl, t->gfn, t->level, best);
		try_coder(e, COP_CODER_ZSTD_TEMPLATE, t->page, tmpl, t->gfn, t->level, best);
	}
	try_coder(e, COP_CODER_RAW, t->page, NULL, 0, t->level, best);
}

/* Finds dictionaries, lets the coders compete, and makes sure that the winner gives the page back.
 */
static int encode(struct cop_store *s, struct cop_encoder *e, struct cop_decoder *d, struct task *t,
		  struct choice *best)
{
	const uint8_t *p;
	int r;

	if (t->gfn != COP_NO_TEMPLATE) {
		r = get_template(s, t->domain, t->gfn, &p);
		if (r)
			return r;
		memcpy(e->template_page, p, COP_PAGE_BYTES);
		t->dict[COP_DICT_TEMPLATE] = e->template_page;
	}
	if (t->like && !cop_store_get(s, d, t->domain, t->like, &p)) {
		memcpy(e->like_page, p, COP_PAGE_BYTES);
		t->dict[COP_DICT_RECORD] = e->like_page;
	}
	choose(e, t, best);
	if (cop_coders[best->coder].decode(d, best->payload, best->len_bytes,
					   t->dict[cop_coders[best->coder].dict]) ||
	    !cop_page_equal(cop_decoder_page(d), t->page)) {
		s->stats.verify_failures++;
		best->coder = COP_CODER_RAW;
		best->len_bytes = COP_PAGE_BYTES;
		memcpy(best->payload, t->page, COP_PAGE_BYTES);
	}
	return 0;
}

/* Appends the record for `slot`; compacts if that makes room. */
static int append(struct cop_store *s, uint32_t slot, unsigned int domain, uint64_t check,
		  const struct choice *c, size_t *ret_offset)
{
	uint8_t record[COP_RECORD_MAX_BYTES + COP_UNIT_BYTES] = {0}, *p = record;
	uint32_t size = record_size(c->coder, c->len_bytes);
	struct cop_record h = {
		.check = check,
		.slot_coder = slot | c->coder << 28,
		.len_domain = (c->len_bytes - 1) | domain << 12,
	};
	int r;

	memcpy(p, &h, sizeof(h));
	p += sizeof(h);
	if (cop_coders[c->coder].dict != COP_DICT_NONE) {
		cop_store32(p, c->dict);
		p += 4;
	}
	memcpy(p, c->payload, c->len_bytes);
	r = cop_log_append(s, record, size, false, ret_offset);
	if (r == -ENOSPC && cop_store_compact(s, 4 * COP_SEGMENT_BYTES))
		r = cop_log_append(s, record, size, false, ret_offset);
	return r;
}

static uint32_t find_similar(const struct cop_store *s, const struct cop_sketch *k,
			     unsigned int domain)
{
	uint32_t slot = cop_sketches_find(&s->sketches, k, LEAST_SHARED_FEATURES);
	struct cop_record_view v;

	/* An entry may be stale: then it names a record all the same, or none. */
	if (!slot || cop_record_of(s, slot, &v) || v.domain != domain ||
	    cop_coders[v.coder].dict == COP_DICT_RECORD ||
	    cop_slot_holders(cop_slot_get(s, slot)) == COP_SLOT_MAX_HOLDERS)
		return 0;
	return slot;
}

int cop_store_put(struct cop_store *s, struct cop_encoder *e, struct cop_decoder *d,
		  unsigned int domain, uint32_t gfn, const uint8_t *page, int level,
		  uint32_t *ret_record)
{
	struct task t = {.domain = domain, .gfn = gfn, .page = page, .level = level};
	uint64_t check = cop_page_check(page, domain);
	struct cop_sketch k = {.nr = 0};
	struct cop_record_view v;
	struct choice best;
	size_t offset;
	uint32_t slot;
	int r;

	assert(domain <= COP_MAX_DOMAIN);
	if (!(s->flags & COP_STORE_NO_DUPLICATES)) {
		slot = find_equal(s, d, domain, check, page);
		if (slot) {
			cop_store_ref(s, slot);
			s->stats.duplicates++;
			*ret_record = slot;
			return 0;
		}
	}
	r = cop_index_prepare(&s->hashes, check_of, s);
	if (!r)
		r = cop_slot_prepare(s);
	if (r)
		return r;
	if (!(s->flags & COP_STORE_NO_LIKE)) {
		cop_sketch_make(page, &k);
		/* Domains neither find nor displace each other's. */
		for (unsigned int i = 0; i < k.nr; i++)
			k.feature[i] ^= domain * 0x9e3779b1u;
		t.like = find_similar(s, &k, domain);
	}
	r = encode(s, e, d, &t, &best);
	if (!r)
		r = append(s, s->free_slot, domain, check, &best, &offset);
	if (r)
		return r;
	slot = cop_slot_take(s, offset, 1);
	s->stats.holders++;
	if (cop_coders[best.coder].dict == COP_DICT_RECORD)
		cop_store_ref(s, best.dict);
	else if (best.len_bytes >= 256)
		cop_sketches_add(&s->sketches, &k, slot, s->stats.records);
	cop_index_add(&s->hashes, check, slot);
	r = cop_record_of(s, slot, &v);
	assert(!r);
	account(s, &v, 1);
	*ret_record = slot;
	return 0;
}

int cop_store_recode(struct cop_store *s, struct cop_encoder *e, struct cop_decoder *d,
		     uint32_t record, int level)
{
	uint8_t page[COP_PAGE_BYTES];
	struct cop_record_view old;
	struct choice best;
	struct task t = {.gfn = COP_NO_TEMPLATE, .page = page, .level = level};
	size_t old_offset, offset;
	const uint8_t *p;
	int r = cop_record_of(s, record, &old);

	if (!r)
		r = cop_store_get(s, d, old.domain, record, &p);
	if (r)
		return r;
	memcpy(page, p, COP_PAGE_BYTES);
	t.domain = old.domain;
	if (cop_coders[old.coder].dict == COP_DICT_TEMPLATE)
		t.gfn = old.dict;
	r = encode(s, e, d, &t, &best);
	if (r || record_size(best.coder, best.len_bytes) >= old.size_bytes)
		return r;
	r = append(s, record, old.domain, old.check, &best, &offset);
	if (r)
		return r;
	/* append() may have moved the old one: where it is now, the slot says. */
	old_offset = cop_slot_offset(cop_slot_get(s, record));
	r = cop_record_of(s, record, &old);
	assert(!r);
	cop_arena_set64(&s->arena, cop_slot_at(s, record),
			cop_slot_word(offset, cop_slot_holders(cop_slot_get(s, record))));
	account(s, &old, -1);
	cop_log_dead(s, old_offset, old.size_bytes);
	if (cop_coders[old.coder].dict == COP_DICT_RECORD)
		cop_store_unref(s, old.dict);
	r = cop_record_of(s, record, &old);
	assert(!r);
	account(s, &old, 1);
	return 0;
}

uint64_t cop_store_trim(struct cop_store *s, int fd)
{
	struct cop_arena *a = &s->arena;
	uint32_t freed = a->nr_kind[COP_BLOCK_FREE] - s->trimmed_blocks, first = 0;

	if (freed > a->nr_blocks) /* fewer are free than there were: nothing to give */
		freed = 0;
	s->trimmed_blocks = a->nr_kind[COP_BLOCK_FREE];
	for (uint32_t b = 0; freed && b <= a->high_block; b++) {
		if (b < a->high_block && a->kind[b] == COP_BLOCK_FREE)
			continue;
		if (b - first >= COP_GROUP_BLOCKS)
			(void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)first * COP_BLOCK_BYTES,
					(off_t)(b - first) * COP_BLOCK_BYTES);
		first = b + 1;
	}
	return (uint64_t)freed * COP_BLOCK_BYTES;
}

int cop_store_verify(const struct cop_store *s, struct cop_decoder *d, uint32_t *ret_record)
{
	for (uint32_t i = 1; i < s->nr_slots; i++) {
		struct cop_record_view v;
		const uint8_t *page;
		int r = cop_record_of(s, i, &v);

		if (!r)
			r = cop_store_get(s, d, v.domain, i, &page);
		else if (r == -ENOENT)
			continue;
		if (r) {
			*ret_record = i;
			return r;
		}
	}
	return 0;
}

void cop_store_get_stats(const struct cop_store *s, struct cop_store_stats *ret_stats)
{
	const struct cop_arena *a = &s->arena;
	uint64_t log_bytes = (uint64_t)a->nr_kind[COP_BLOCK_LOG] * COP_BLOCK_BYTES;

	*ret_stats = s->stats;
	ret_stats->raw_bytes = s->stats.holders * COP_PAGE_BYTES;
	ret_stats->dead_bytes = log_bytes - s->stats.live_bytes;
	ret_stats->slot_bytes = (uint64_t)a->nr_kind[COP_BLOCK_SLOTS] * COP_BLOCK_BYTES;
	ret_stats->ptab_bytes = (uint64_t)a->nr_kind[COP_BLOCK_PTAB] * COP_BLOCK_BYTES;
	ret_stats->dir_bytes = (uint64_t)(a->nr_kind[COP_BLOCK_DIR] + a->nr_kind[COP_BLOCK_SUPER]) *
			       COP_BLOCK_BYTES;
	ret_stats->arena_bytes =
		log_bytes + ret_stats->slot_bytes + ret_stats->ptab_bytes + ret_stats->dir_bytes;
	ret_stats->memory_bytes =
		sizeof(*s) + a->high_block +
		(uint64_t)a->high_block / COP_GROUP_BLOCKS * sizeof(struct cop_segment) +
		(uint64_t)s->slot_chunk_room * sizeof(*s->slot_chunk);
	if (s->hashes.entries)
		ret_stats->memory_bytes += ((uint64_t)s->hashes.mask + 1) * sizeof(uint32_t);
	if (s->sketches.entries)
		ret_stats->memory_bytes += ((uint64_t)s->sketches.mask + 1) * sizeof(uint32_t);
}

unsigned int cop_store_coder(const struct cop_store *s, uint32_t record)
{
	struct cop_record_view v;

	return cop_record_of(s, record, &v) ? COP_NR_CODERS : v.coder;
}

void cop_store_set_hook(struct cop_store *s, void (*hook)(void *, size_t, const void *, size_t),
			void *ctx)
{
	s->arena.hook = hook;
	s->arena.hook_ctx = ctx;
}
