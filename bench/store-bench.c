/*
 * store-bench.c - what the store makes of pages: bytes, and time to bring each back.
 *
 * Usage: store-bench (--pages FILE --template FILE | --generate KIND) [--count N] [--level N]
 * [--seed N] [--json]
 *
 * FILEs are zstd-compressed: pages as u32 clone, u32 page number, 4096 bytes; template as u32 page
 * number, 4096 bytes. A KIND is one of pagegen.h.
 *
 * Really stores every page, in the order of the file, with a page table per clone; then restores
 * each one, in random order, and compares. Bytes are what the store uses in the end: blocks of its
 * arena and its ordinary memory. Times are per page, the median of ROUNDS rounds, so that other
 * work on the machine counts less; a time includes finding the page in its table, verifying its
 * checksum, and one reading of the clock, whose own cost is told beside.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include <lz4.h>
#include <zstd.h>

#include "mem/ptab.h"
#include "pagegen.h"

#define ROUNDS	    5
#define DOMAIN	    1
#define PAGE_RECORD 4104
#define TMPL_RECORD 4100

struct input {
	uint8_t *pages; /* PAGE_RECORD each */
	size_t nr_pages;
	uint8_t *tmpl; /* TMPL_RECORD each, sorted by page number */
	size_t nr_tmpl;
};

struct times {
	uint32_t p50, p99;
	double mean;
};

struct rate {
	size_t pages;
	double ns;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "store-bench: %s: %s\n", what, why);
	exit(1);
}

static void *must(void *p)
{
	if (!p)
		die("memory", "exhausted");
	return p;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint8_t *read_zstd(const char *name, size_t *ret_len)
{
	size_t room = 1 << 20, len = 0, in_room = ZSTD_DStreamInSize();
	uint8_t *out = must(malloc(room)), *in = must(malloc(in_room));
	ZSTD_DStream *z = must(ZSTD_createDStream());
	FILE *f = fopen(name, "rb");
	size_t n;

	if (!f)
		die(name, strerror(errno));
	while ((n = fread(in, 1, in_room, f)) > 0) {
		ZSTD_inBuffer ib = {in, n, 0};

		while (ib.pos < ib.size) {
			ZSTD_outBuffer ob = {out, room, len};
			size_t r = ZSTD_decompressStream(z, &ob, &ib);

			if (ZSTD_isError(r))
				die(name, ZSTD_getErrorName(r));
			len = ob.pos;
			if (len == room)
				out = must(realloc(out, room *= 2));
		}
	}
	fclose(f);
	ZSTD_freeDStream(z);
	free(in);
	*ret_len = len;
	return out;
}

static int by_gfn(const void *a, const void *b)
{
	uint32_t x = cop_load32(a), y = cop_load32(b);

	return (x > y) - (x < y);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void read_input(struct input *in, const char *pages, const char *tmpl)
{
	size_t len;

	in->pages = read_zstd(pages, &len);
	if (!len || len % PAGE_RECORD)
		die(pages, "not records of 4104 bytes");
	in->nr_pages = len / PAGE_RECORD;
	in->tmpl = read_zstd(tmpl, &len);
	if (len % TMPL_RECORD)
		die(tmpl, "not records of 4100 bytes");
	in->nr_tmpl = len / TMPL_RECORD;
	qsort(in->tmpl, in->nr_tmpl, TMPL_RECORD, by_gfn);
}

static void generate(struct input *in, enum cop_page_kind kind, uint64_t seed, size_t count)
{
	in->pages = must(malloc(count * PAGE_RECORD));
	in->tmpl = must(malloc(count * TMPL_RECORD));
	in->nr_pages = in->nr_tmpl = count;
	for (size_t i = 0; i < count; i++) {
		/* Page numbers as of an idle clone: short runs, far apart. */
		uint32_t gfn = i / 4 * 37 + i % 4;

		cop_store32(in->pages + i * PAGE_RECORD, 0);
		cop_store32(in->pages + i * PAGE_RECORD + 4, gfn);
		cop_store32(in->tmpl + i * TMPL_RECORD, gfn);
		cop_pagegen(kind, seed, i, in->pages + i * PAGE_RECORD + 8,
			    in->tmpl + i * TMPL_RECORD + 4);
	}
}

static const uint8_t *page_at(const struct input *in, size_t i)
{
	return in->pages + i * PAGE_RECORD + 8;
}

static int template_page(void *ctx, unsigned int domain, uint32_t gfn, const uint8_t **ret_page)
{
	static const uint8_t zeros[COP_PAGE_BYTES];
	const struct input *in = ctx;
	uint8_t key[4];
	const uint8_t *t;

	cop_store32(key, gfn);
	t = bsearch(key, in->tmpl, in->nr_tmpl, TMPL_RECORD, by_gfn);
	*ret_page = t ? t + 4 : zeros;
	return 0;
}

/* Sorts `times` and sums up. */
static struct times sum_up(uint32_t *t, size_t n)
{
	struct times r = {0};

	if (!n)
		return r;
	qsort(t, n, sizeof(*t), by_value);
	for (size_t i = 0; i < n; i++)
		r.mean += t[i];
	r.mean /= n;
	r.p50 = t[n / 2];
	r.p99 = t[n - 1 - n / 100];
	return r;
}

static uint32_t median(uint32_t *t, size_t n)
{
	qsort(t, n, sizeof(*t), by_value);
	return t[n / 2];
}

/* What a time holds of the clock itself. */
static uint32_t clock_ns(void)
{
	uint32_t t[1001];

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		uint64_t start = now_ns();

		t[i] = now_ns() - start;
	}
	return median(t, sizeof(t) / sizeof(*t));
}

struct result {
	struct cop_store_stats st;
	size_t zero, same, records; /* pages */
	struct rate marks, others;
	struct times decode, coder[COP_NR_CODERS];
};

struct bench {
	struct input in;
	struct cop_model *model;
	struct cop_encoder *e;
	struct cop_decoder *d;
	int level;
	uint64_t seed;
};

static struct cop_ptab *table_of(struct cop_store *s, struct cop_ptab **tables, uint32_t clone)
{
	if (clone >= 4096)
		die("clone number", "too large");
	if (!tables[clone] && cop_ptab_new(s, clone + 1, &tables[clone]))
		die("page table", "no room");
	return tables[clone];
}

static void run_store(struct bench *b, unsigned int flags, struct result *ret)
{
	const struct cop_templates templates = {template_page, &b->in};
	size_t n = b->in.nr_pages, room = (n * 5120 / COP_SEGMENT_BYTES + 64) * COP_SEGMENT_BYTES;
	void *mem = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct cop_ptab **tables = must(calloc(4096, sizeof(*tables)));
	uint32_t *order = must(malloc(n * 4)), *t = must(malloc(n * 4 * ROUNDS));
	uint32_t *per_coder = must(malloc(n * 4)), *final = must(malloc(n * 4));
	uint8_t *coder = must(calloc(n, 1));
	uint64_t r = b->seed;
	struct cop_store *s;
	size_t k = 0;

	if (mem == MAP_FAILED)
		die("arena", strerror(errno));
	if (cop_store_create(mem, room, flags, &templates, &s))
		die("store", "not created");
	*ret = (struct result){0};
	for (size_t i = 0; i < n; i++) {
		const uint8_t *page = page_at(&b->in, i), *tmpl;
		uint32_t gfn = cop_load32(page - 4), record = COP_RECORD_NONE;
		struct cop_ptab *table = table_of(s, tables, cop_load32(page - 8));
		enum cop_page_state state = COP_PAGE_RECORD;
		uint64_t start = now_ns();
		struct rate *rate = &ret->marks;

		(void)template_page(&b->in, DOMAIN, gfn, &tmpl); /* can't fail */
		if (cop_page_is_zero(page)) {
			state = COP_PAGE_ZERO;
			ret->zero++;
		} else if (cop_page_equal(page, tmpl)) {
			state = COP_PAGE_SAME;
			ret->same++;
		} else {
			rate = &ret->others;
			ret->records++;
			if (cop_store_put(s, b->e, b->d, DOMAIN, gfn, page, b->level, &record))
				die("store", "put failed");
		}
		if (cop_ptab_set(table, gfn, state, record))
			die("store", "page table full");
		rate->ns += now_ns() - start;
		rate->pages++;
	}
	cop_store_get_stats(s, &ret->st);

	/* Where a page occurs twice in the input, the later one counts. */
	for (unsigned int round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < n; i++)
			order[i] = i;
		for (size_t i = n; i > 1; i--) {
			uint32_t j = cop_random_below(&r, i), x = order[i - 1];

			order[i - 1] = order[j];
			order[j] = x;
		}
		for (size_t o = 0; o < n; o++) {
			size_t i = order[o];
			const uint8_t *page = page_at(&b->in, i), *got = NULL, *tmpl;
			uint32_t gfn = cop_load32(page - 4), record;
			struct cop_ptab *table = tables[cop_load32(page - 8)];
			enum cop_page_state state;
			uint64_t start = now_ns(), ns;
			int e = cop_ptab_get(table, gfn, &state, &record);

			if (!e && state == COP_PAGE_RECORD)
				e = cop_store_get(s, b->d, DOMAIN, record, &got);
			ns = now_ns() - start;
			if (e)
				die("restore", strerror(-e));
			t[i * ROUNDS + round] = ns;
			coder[i] = COP_NR_CODERS;
			if (state == COP_PAGE_RECORD) {
				coder[i] = cop_store_coder(s, record);
				if (!cop_page_equal(got, page))
					die("restore", "WRONG BYTES");
			} else if (state == COP_PAGE_SAME) {
				(void)template_page(&b->in, DOMAIN, gfn, &tmpl); /* can't fail */
				if (!cop_page_equal(tmpl, page))
					die("restore", "WRONG BYTES");
			} else if (state != COP_PAGE_ZERO || !cop_page_is_zero(page)) {
				die("restore", "WRONG BYTES");
			}
		}
	}
	for (size_t i = 0; i < n; i++) {
		t[i] = median(t + i * ROUNDS, ROUNDS);
		if (coder[i] < COP_NR_CODERS)
			final[k++] = t[i];
	}
	ret->decode = sum_up(final, k);
	for (unsigned int c = 0; c < COP_NR_CODERS; c++) {
		k = 0;
		for (size_t i = 0; i < n; i++) {
			if (coder[i] == c)
				per_coder[k++] = t[i];
		}
		ret->coder[c] = sum_up(per_coder, k);
	}
	for (unsigned int i = 0; i < 4096; i++)
		cop_ptab_close(tables[i]);
	cop_store_close(s);
	munmap(mem, room);
	free(tables);
	free(order);
	free(t);
	free(per_coder);
	free(final);
	free(coder);
}

struct peer {
	const char *name;
	size_t bytes;
	struct times decode;
	struct rate encode;
};

/* A library alone: each page by itself, zero pages left out, no metadata counted. */
static void run_peer(struct bench *b, bool zstd, struct peer *ret)
{
	static uint8_t buf[2 * COP_PAGE_BYTES], out[COP_PAGE_BYTES];
	ZSTD_CCtx *zc = must(ZSTD_createCCtx());
	ZSTD_DCtx *zd = must(ZSTD_createDCtx());
	size_t n = b->in.nr_pages, k = 0, *offset = must(calloc(n + 1, sizeof(*offset)));
	uint8_t *all = must(malloc(n * sizeof(buf)));
	uint32_t *t = must(calloc(n, 4 * ROUNDS));

	*ret = (struct peer){.name = zstd ? "zstd -1" : "lz4"};
	for (size_t i = 0; i < n; i++) {
		const uint8_t *page = page_at(&b->in, i);
		uint64_t start = now_ns();
		size_t len = 0;

		if (!cop_page_is_zero(page)) {
			if (zstd)
				len = ZSTD_compressCCtx(zc, buf, sizeof(buf), page, COP_PAGE_BYTES,
							1);
			else
				len = LZ4_compress_default((const char *)page, (char *)buf,
							   COP_PAGE_BYTES, sizeof(buf));
			ret->encode.ns += now_ns() - start;
			ret->encode.pages++;
			ret->bytes += len < COP_PAGE_BYTES ? len : COP_PAGE_BYTES;
		}
		memcpy(all + offset[i], buf, len);
		offset[i + 1] = offset[i] + len;
	}
	for (unsigned int round = 0; round < ROUNDS; round++) {
		for (size_t o = 0; o < n; o++) {
			/* A stride that visits all in a far order: n need not be prime for a bench.
			 */
			size_t i = (o * 7919) % n, len = offset[i + 1] - offset[i];
			uint64_t start = now_ns();

			if (!len)
				continue;
			if (zstd)
				(void)ZSTD_decompressDCtx(zd, out, sizeof(out), all + offset[i],
							  len);
			else
				(void)LZ4_decompress_safe((char *)all + offset[i], (char *)out, len,
							  sizeof(out));
			t[i * ROUNDS + round] = now_ns() - start;
			if (!cop_page_equal(out, page_at(&b->in, i)))
				die(ret->name, "WRONG BYTES");
		}
	}
	for (size_t i = 0; i < n; i++) {
		if (offset[i + 1] > offset[i])
			t[k++] = median(t + i * ROUNDS, ROUNDS);
	}
	ret->decode = sum_up(t, k);
	ZSTD_freeCCtx(zc);
	ZSTD_freeDCtx(zd);
	free(offset);
	free(all);
	free(t);
}

static double per_second(struct rate r)
{
	return r.ns ? r.pages / (r.ns / 1e9) : 0;
}

static size_t stored(const struct result *r)
{
	return r->st.arena_bytes + r->st.memory_bytes;
}

static size_t payload(const struct result *r)
{
	size_t sum = 0;

	for (unsigned int i = 0; i < COP_NR_CODERS; i++)
		sum += r->st.coder_bytes[i];
	return sum;
}

static void print_json(const struct bench *b, const struct result *r, const struct result *plain,
		       const struct peer *peers, size_t nr_peers)
{
	size_t raw = b->in.nr_pages * COP_PAGE_BYTES;

	printf("{\n  \"pages\": %zu,\n  \"raw_bytes\": %zu,\n  \"stored_bytes\": %zu,\n"
	       "  \"ratio\": %.4f,\n  \"stored_bytes_per_page\": %.1f,\n"
	       "  \"metadata_bytes\": %zu,\n  \"payload_bytes\": %zu,\n",
	       b->in.nr_pages, raw, stored(r), (double)stored(r) / raw,
	       (double)stored(r) / b->in.nr_pages, stored(r) - payload(r), payload(r));
	printf("  \"metadata\": {\"log_headers_and_waste\": %zu, \"slots\": %zu, \"page_tables\": "
	       "%zu,"
	       " \"directories\": %zu, \"memory\": %zu},\n",
	       r->st.arena_bytes - payload(r) - r->st.slot_bytes - r->st.ptab_bytes -
		       r->st.dir_bytes,
	       r->st.slot_bytes, r->st.ptab_bytes, r->st.dir_bytes, r->st.memory_bytes);
	printf("  \"zero_pages\": %zu,\n  \"same_pages\": %zu,\n  \"duplicate_pages\": %zu,\n"
	       "  \"decode_ns_p50\": %u,\n  \"decode_ns_p99\": %u,\n  \"decode_ns_mean\": %.0f,\n"
	       "  \"clock_ns\": %u,\n  \"encode_marks_per_s\": %.0f,\n  \"encode_others_per_s\": "
	       "%.0f,\n"
	       "  \"verify_failures\": %zu,\n",
	       r->zero, r->same, (size_t)r->st.duplicates, r->decode.p50, r->decode.p99,
	       r->decode.mean, clock_ns(), per_second(r->marks), per_second(r->others),
	       (size_t)r->st.verify_failures);
	printf("  \"without_similar\": {\"stored_bytes\": %zu, \"ratio\": %.4f, \"decode_ns_p50\": "
	       "%u,"
	       " \"decode_ns_p99\": %u, \"encode_others_per_s\": %.0f},\n",
	       stored(plain), (double)stored(plain) / raw, plain->decode.p50, plain->decode.p99,
	       per_second(plain->others));
	printf("  \"coders\": {");
	for (unsigned int i = 0; i < COP_NR_CODERS; i++)
		printf("%s\n    \"%s\": {\"records\": %zu, \"bytes\": %zu, \"decode_ns_p50\": %u,"
		       " \"decode_ns_p99\": %u}",
		       i ? "," : "", cop_coders[i].name, (size_t)r->st.coder_records[i],
		       (size_t)r->st.coder_bytes[i], r->coder[i].p50, r->coder[i].p99);
	printf("\n  },\n  \"beside\": {");
	for (size_t i = 0; i < nr_peers; i++)
		printf("%s\n    \"%s\": {\"bytes\": %zu, \"ratio\": %.4f, \"decode_ns_p50\": %u,"
		       " \"decode_ns_p99\": %u, \"encode_per_s\": %.0f}",
		       i ? "," : "", peers[i].name, peers[i].bytes, (double)peers[i].bytes / raw,
		       peers[i].decode.p50, peers[i].decode.p99, per_second(peers[i].encode));
	printf("\n  }\n}\n");
}

static void print_text(const struct bench *b, const struct result *r, const struct result *plain,
		       const struct peer *peers, size_t nr_peers)
{
	double raw = b->in.nr_pages * (double)COP_PAGE_BYTES;

	printf("%zu pages: %zu zero, %zu same, %zu duplicates\n", b->in.nr_pages, r->zero, r->same,
	       (size_t)r->st.duplicates);
	printf("%-22s %10zu bytes  %.4f  %7.1f a page, of that metadata and waste %.1f\n", "stored",
	       stored(r), stored(r) / raw, (double)stored(r) / b->in.nr_pages,
	       (double)(stored(r) - payload(r)) / b->in.nr_pages);
	printf("%-22s %10s        %5u ns p50  %5u ns p99  encode %.0f/s marks, %.0f/s others\n", "",
	       "", r->decode.p50, r->decode.p99, per_second(r->marks), per_second(r->others));
	printf("%-22s %10zu bytes  %.4f  %5u ns p50  %5u ns p99  %.0f/s others\n",
	       "without similar", stored(plain), stored(plain) / raw, plain->decode.p50,
	       plain->decode.p99, per_second(plain->others));
	for (unsigned int i = 0; i < COP_NR_CODERS; i++) {
		if (r->st.coder_records[i])
			printf("  %-20s %10zu bytes  %6zu records  %5u ns p50  %5u ns p99\n",
			       cop_coders[i].name, (size_t)r->st.coder_bytes[i],
			       (size_t)r->st.coder_records[i], r->coder[i].p50, r->coder[i].p99);
	}
	for (size_t i = 0; i < nr_peers; i++)
		printf("%-22s %10zu bytes  %.4f  %5u ns p50  %5u ns p99  %.0f/s\n", peers[i].name,
		       peers[i].bytes, peers[i].bytes / raw, peers[i].decode.p50,
		       peers[i].decode.p99, per_second(peers[i].encode));
}

int main(int argc, char **argv)
{
	const char *pages = NULL, *tmpl = NULL, *kind = NULL;
	struct bench b = {.level = 1, .seed = 1};
	struct result with, without;
	struct peer peers[2];
	size_t count = 6000;
	bool json = false;

	for (int i = 1; i < argc; i++) {
		const char *v = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(argv[i], "--json")) {
			json = true;
			continue;
		}
		if (!strcmp(argv[i], "--pages"))
			pages = v;
		else if (!strcmp(argv[i], "--template"))
			tmpl = v;
		else if (!strcmp(argv[i], "--generate"))
			kind = v;
		else if (!strcmp(argv[i], "--count"))
			count = strtoul(v, NULL, 0);
		else if (!strcmp(argv[i], "--level"))
			b.level = atoi(v);
		else if (!strcmp(argv[i], "--seed"))
			b.seed = strtoull(v, NULL, 0);
		else
			die(argv[i], "not an option; see the top of store-bench.c");
		i++;
	}
	if (kind) {
		unsigned int k = 0;

		while (k < COP_NR_PAGE_KINDS && strcmp(kind, cop_page_kind_names[k]))
			k++;
		if (k == COP_NR_PAGE_KINDS || !count)
			die(kind, "no such kind of pages");
		generate(&b.in, k, b.seed, count);
	} else if (pages && tmpl) {
		read_input(&b.in, pages, tmpl);
		if (count && count < b.in.nr_pages && count != 6000)
			b.in.nr_pages = count;
	} else {
		die("usage", "(--pages FILE --template FILE | --generate KIND) [--count N] "
			     "[--level N] [--seed N] [--json]");
	}
	b.model = must(cop_model_new());
	b.e = must(cop_encoder_new(b.model));
	b.d = must(cop_decoder_new(b.model));
	run_store(&b, COP_STORE_NO_LIKE, &without);
	run_store(&b, 0, &with);
	run_peer(&b, true, &peers[0]);
	run_peer(&b, false, &peers[1]);
	(json ? print_json : print_text)(&b, &with, &without, peers, 2);
	cop_decoder_free(b.d);
	cop_encoder_free(b.e);
	cop_model_free(b.model);
	free(b.in.pages);
	free(b.in.tmpl);
	return 0;
}
