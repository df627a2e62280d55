/* SPDX-License-Identifier: MIT */
/*
 * fuzz-agent.c - any bytes from a guest, or from a host, as the agent's stream.
 *
 * Catches: reading outside the bytes given; frames that depend on how the stream was cut up; a
 * decoder that answers anything but 0 or -EBADMSG; a message that was understood but can't be said
 * again in the same bytes.
 *
 * Input: u8 side (1: agent's) and acceptance (2: the first frame after a mark is accepted), u8 size
 * of the pieces that the second reading gets (0: 256), then the stream.
 */
#include "proto/agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			fprintf(stderr, "%d: " #what "\n", __LINE__);                              \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static uint8_t again[COP_AGENT_OPENING_MAX + COP_AGENT_FRAME_MAX];
static const char *store[COP_AGENT_MAX_STRINGS];

/* It has no business elsewhere, so it may refuse a text that holds the mark. */
static void same(const struct cop_agent_frame *f, ssize_t n)
{
	if (n == -EINVAL)
		return;
	CHECK(n == (ssize_t)(COP_AGENT_HEAD_BYTES + f->len));
	CHECK(!f->len || memcmp(again + COP_AGENT_HEAD_BYTES, f->payload, f->len) == 0);
}

/* What is understood of f as type, is said again. Returns what the decoder said. */
static int decode(const struct cop_agent_frame *f, uint8_t type)
{
	union {
		struct cop_agent_hello hello;
		struct cop_agent_hello_ack ack;
		struct cop_agent_refused refused;
		struct cop_agent_exec exec;
		struct cop_agent_exit exit;
		struct cop_agent_error error;
		struct cop_agent_identify identify;
		struct cop_agent_identified identified;
		struct cop_agent_quiesced quiesced;
		struct cop_agent_request request;
		struct cop_agent_response response;
	} m;
	uint32_t s = f->session, id = f->id, number;
	const uint8_t *bytes;
	uint8_t stream;
	uint16_t rows, columns;
	size_t nr;
	int r;

	switch (type) {
	case COP_AGENT_HELLO: /* these three may be longer than what is said again */
		return cop_agent_get_hello(f, &m.hello);
	case COP_AGENT_HELLO_ACK:
		return cop_agent_get_hello_ack(f, &m.ack);
	case COP_AGENT_REFUSED:
		return cop_agent_get_refused(f, &m.refused);
	case COP_AGENT_DATA:
		r = cop_agent_get_data(f, &stream, &bytes, &nr);
		if (!r)
			same(f, cop_agent_put_data(again, s, id, stream, bytes, nr));
		return r;
	case COP_AGENT_EOF:
		r = cop_agent_get_eof(f, &stream);
		if (!r)
			same(f, cop_agent_put_eof(again, s, id, stream));
		return r;
	case COP_AGENT_CREDIT:
		r = cop_agent_get_credit(f, &stream, &number);
		if (!r)
			same(f, cop_agent_put_credit(again, s, id, stream, number));
		return r;
	case COP_AGENT_SIGNAL:
		r = cop_agent_get_signal(f, &stream);
		if (!r)
			same(f, cop_agent_put_signal(again, s, id, stream));
		return r;
	case COP_AGENT_RESIZE:
		r = cop_agent_get_resize(f, &rows, &columns);
		if (!r)
			same(f, cop_agent_put_resize(again, s, id, rows, columns));
		return r;
	case COP_AGENT_QUIESCE:
		r = cop_agent_get_limit(f, &number);
		if (!r)
			same(f, cop_agent_put_quiesce(again, s, id, number));
		return r;
	case COP_AGENT_HOLD:
		r = cop_agent_get_limit(f, &number);
		if (!r)
			same(f, cop_agent_put_hold(again, s, id, number));
		return r;
	case COP_AGENT_EXEC:
		r = cop_agent_get_exec(f, store, &m.exec);
		if (!r)
			same(f, cop_agent_put_exec(again, s, id, &m.exec));
		return r;
	case COP_AGENT_EXIT:
		r = cop_agent_get_exit(f, &m.exit);
		if (!r)
			same(f, cop_agent_put_exit(again, s, id, &m.exit));
		return r;
	case COP_AGENT_ERROR:
		r = cop_agent_get_error(f, &m.error);
		if (!r)
			same(f, cop_agent_put_error(again, s, id, m.error.code, m.error.text));
		return r;
	case COP_AGENT_IDENTIFY:
		r = cop_agent_get_identify(f, store, &m.identify);
		if (!r)
			same(f, cop_agent_put_identify(again, s, id, &m.identify));
		return r;
	case COP_AGENT_IDENTIFIED:
		r = cop_agent_get_identified(f, &m.identified);
		if (!r)
			same(f, cop_agent_put_identified(again, s, id, &m.identified));
		return r;
	case COP_AGENT_QUIESCED:
		r = cop_agent_get_quiesced(f, &m.quiesced);
		if (!r)
			same(f, cop_agent_put_quiesced(again, s, id, &m.quiesced));
		return r;
	case COP_AGENT_REQUEST:
		r = cop_agent_get_request(f, store, &m.request);
		if (!r)
			same(f, cop_agent_put_request(again, s, id, &m.request));
		return r;
	case COP_AGENT_RESPONSE:
		r = cop_agent_get_response(f, store, &m.response);
		if (!r)
			same(f, cop_agent_put_response(again, s, id, &m.response));
		return r;
	default:
		return cop_agent_get_empty(f);
	}
}

struct found {
	struct cop_agent_frame frame;
	size_t at; /* in the stream, where it ended */
	uint32_t sum;
};

#define MAX_FOUND 512

/* All frames of the stream, given in pieces; returns how many, and looks into them if asked. */
static unsigned read_all(struct cop_agent_rx *rx, unsigned how, const uint8_t *data, size_t len,
			 size_t piece, bool look, struct found *found)
{
	unsigned nr = 0;
	size_t at = 0;

	cop_agent_rx_init(rx, how & 1);
	while (at < len) {
		size_t part = len - at < piece ? len - at : piece, used = 0;
		struct cop_agent_frame f;
		/* A copy of exactly that length, so that a sanitizer sees what reads beyond. */
		uint8_t *copy = malloc(part);
		int r;

		CHECK(copy);
		memcpy(copy, data + at, part);
		r = cop_agent_rx_feed(rx, copy, part, &used, &f);
		CHECK(r == 1 || r == 0 || r == -EBADMSG);
		CHECK(used <= part && (r != 0 || used == part));
		at += used;
		if (r == 1 && nr < MAX_FOUND) {
			CHECK(f.len <= COP_AGENT_PAYLOAD_MAX);
			found[nr] = (struct found){.frame = f, .at = at};
			for (uint32_t i = 0; i < f.len; i++)
				found[nr].sum = found[nr].sum * 31 + f.payload[i];
			nr++;
			if (look) {
				int said = 0;

				for (unsigned type = 0; type < 80; type++) {
					said = decode(&f, (uint8_t)type);
					CHECK(said == 0 || said == -EBADMSG);
				}
			}
			if (how & 2 && f.synced)
				cop_agent_rx_accept(rx);
		}
		free(copy);
		if (!used && r != 0)
			break; /* it hunts in the same bytes: nothing more is to be had of them */
	}
	return nr;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct cop_agent_rx rx;
	static struct found whole[MAX_FOUND], parts[MAX_FOUND];
	unsigned nr;

	if (len < 2 || len > 200000)
		return 0;
	nr = read_all(&rx, data[0], data + 2, len - 2, len, true, whole);
	CHECK(read_all(&rx, data[0], data + 2, len - 2, data[1] ? data[1] : 256, false, parts) ==
	      nr);
	for (unsigned i = 0; i < nr; i++) {
		const struct cop_agent_frame *a = &whole[i].frame, *b = &parts[i].frame;

		CHECK(a->session == b->session && a->id == b->id && a->type == b->type &&
		      a->synced == b->synced && a->len == b->len && whole[i].at == parts[i].at &&
		      whole[i].sum == parts[i].sum);
	}
	return 0;
}
