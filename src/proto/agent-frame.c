/* SPDX-License-Identifier: MIT */
/*
 * agent-frame.c: frames of the agent's protocol found in a stream and written. See agent.h and
 * docs/formats/agent.md.
 *
 * Invariants:
 * 1. A frame is at most COP_AGENT_FRAME_MAX bytes, so a scan never waits for more than that.
 * 2. The last byte of a frame is not 0 (the check's highest bit is 0, it ends inverted). So zeros
 *    never complete a frame that was cut off, and a row of them never begins before its end.
 * 3. scanner->zeros counts bytes of the stream as they are, whether they were noise or in a frame
 *    that was dropped; a frame that is valid ends the row.
 */
#include "proto/agent.h"

#include <errno.h>
#include <string.h>

enum {
	AT_MAGIC = 0,
	AT_TYPE = 4,
	AT_FLAGS = 6,
	AT_SESSION = 8,
	AT_STREAM = 16,
	AT_LEN = 20,
	AT_CHECK = 24
};

#define ZEROS_MAX (2 * COP_AGENT_SYNC_BYTES)

static void put(uint8_t *at, uint64_t value, unsigned nr_bytes)
{
	for (unsigned i = 0; i < nr_bytes; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *at, unsigned nr_bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < nr_bytes; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

static uint32_t check_of(const uint8_t *head)
{
	uint32_t hash = 2166136261u;

	for (unsigned i = 0; i < AT_CHECK; i++)
		hash = (hash ^ head[i]) * 16777619u;
	return hash & 0x7fffffffu;
}

static void count_noise(struct cop_agent_scanner *s, const uint8_t *data, size_t len)
{
	size_t zeros = 0;

	s->noise_bytes += len;
	while (zeros < len && data[len - 1 - zeros] == 0)
		zeros++;
	if (zeros < len)
		s->zeros = 0;
	s->zeros = zeros >= ZEROS_MAX - s->zeros ? ZEROS_MAX : s->zeros + (uint32_t)zeros;
}

/* Is there the beginning of a head in @len bytes? What is missing of it is taken as right. */
static bool may_be_head(const uint8_t *data, size_t len)
{
	uint8_t magic[4];

	put(magic, COP_AGENT_MAGIC, 4);
	if (memcmp(data, magic, len < 4 ? len : 4) != 0)
		return false;
	return len < COP_AGENT_HEAD_BYTES || (get(data + AT_LEN, 4) <= COP_AGENT_PAYLOAD_BYTES &&
					      get(data + AT_CHECK, 4) == check_of(data));
}

int cop_agent_scan(struct cop_agent_scanner *scanner, const uint8_t *data, size_t len_bytes,
		   size_t *ret_used, struct cop_agent_frame *ret)
{
	size_t at = 0, from = 0; /* noise from here on is not counted yet */

	while (at < len_bytes) {
		const uint8_t *head = memchr(data + at, COP_AGENT_MAGIC & 0xff, len_bytes - at);
		size_t left, all;
		uint32_t len;

		if (!head) {
			at = len_bytes;
			break;
		}
		at = (size_t)(head - data);
		left = len_bytes - at;
		if (!may_be_head(head, left)) {
			at++;
			continue;
		}
		if (left < COP_AGENT_HEAD_BYTES)
			break;
		len = (uint32_t)get(head + AT_LEN, 4);
		all = COP_AGENT_HEAD_BYTES + len + COP_AGENT_TAIL_BYTES;
		if (left < all)
			break;
		if (get(head + COP_AGENT_HEAD_BYTES + len, 4) !=
		    (uint32_t) ~(uint32_t)get(head + AT_CHECK, 4)) {
			at += all; /* cut off; what is in it was data */
			continue;
		}
		if (at > from)
			count_noise(scanner, data + from, at - from);
		*ret = (struct cop_agent_frame){
			.type = (uint16_t)get(head + AT_TYPE, 2),
			.flags = (uint16_t)get(head + AT_FLAGS, 2),
			.stream = (uint32_t)get(head + AT_STREAM, 4),
			.session = get(head + AT_SESSION, 8),
			.payload = head + COP_AGENT_HEAD_BYTES,
			.len_bytes = len,
			.after_sync = scanner->zeros >= COP_AGENT_PAYLOAD_BYTES,
		};
		scanner->zeros = 0;
		*ret_used = at + all;
		return 1;
	}
	if (at > from)
		count_noise(scanner, data + from, at - from);
	*ret_used = at;
	return 0;
}

static void write_head(uint8_t *frame, uint16_t type, uint16_t flags, uint64_t session,
		       uint32_t stream, size_t len)
{
	uint32_t check;

	put(frame + AT_MAGIC, COP_AGENT_MAGIC, 4);
	put(frame + AT_TYPE, type, 2);
	put(frame + AT_FLAGS, flags, 2);
	put(frame + AT_SESSION, session, 8);
	put(frame + AT_STREAM, stream, 4);
	put(frame + AT_LEN, len, 4);
	check = check_of(frame);
	put(frame + AT_CHECK, check, 4);
	put(frame + COP_AGENT_HEAD_BYTES + len, (uint32_t)~check, 4);
}

size_t cop_agent_frame_wrap(uint8_t *frame, uint16_t type, uint64_t session, uint32_t stream,
			    size_t len_bytes)
{
	write_head(frame, type, 0, session, stream, len_bytes);
	return COP_AGENT_HEAD_BYTES + len_bytes + COP_AGENT_TAIL_BYTES;
}

size_t cop_agent_frames_bytes(size_t payload_bytes)
{
	size_t nr = payload_bytes ? (payload_bytes - 1) / COP_AGENT_PAYLOAD_BYTES + 1 : 1;

	return payload_bytes + nr * (COP_AGENT_HEAD_BYTES + COP_AGENT_TAIL_BYTES);
}

void cop_agent_frame_put(struct cop_agent_buf *buf, uint16_t type, uint64_t session,
			 uint32_t stream, const void *payload, size_t len_bytes)
{
	const uint8_t *from = payload;

	if (len_bytes > COP_AGENT_MESSAGE_BYTES || buf->overflow ||
	    cop_agent_frames_bytes(len_bytes) > buf->cap_bytes - buf->len_bytes) {
		buf->overflow = true;
		return;
	}
	do {
		size_t part =
			len_bytes > COP_AGENT_PAYLOAD_BYTES ? COP_AGENT_PAYLOAD_BYTES : len_bytes;
		uint8_t *frame = buf->data + buf->len_bytes;

		if (part)
			memcpy(frame + COP_AGENT_HEAD_BYTES, from, part);
		write_head(frame, type, part < len_bytes ? COP_AGENT_F_MORE : 0, session, stream,
			   part);
		buf->len_bytes += COP_AGENT_HEAD_BYTES + part + COP_AGENT_TAIL_BYTES;
		from = from ? from + part : NULL;
		len_bytes -= part;
	} while (len_bytes);
}

void cop_agent_sync_put(struct cop_agent_buf *buf)
{
	if (buf->overflow || COP_AGENT_SYNC_BYTES > buf->cap_bytes - buf->len_bytes) {
		buf->overflow = true;
		return;
	}
	memset(buf->data + buf->len_bytes, 0, COP_AGENT_SYNC_BYTES);
	buf->len_bytes += COP_AGENT_SYNC_BYTES;
}

int cop_agent_join(struct cop_agent_join *join, const struct cop_agent_frame *frame,
		   const uint8_t **ret_payload, size_t *ret_len_bytes)
{
	bool more = frame->flags & COP_AGENT_F_MORE;

	if (frame->flags & ~COP_AGENT_F_MORE)
		return -EPROTO;
	if (!join->open) {
		if (!more) {
			*ret_payload = frame->payload;
			*ret_len_bytes = frame->len_bytes;
			return 1;
		}
		join->open = true;
		join->len_bytes = 0;
		join->type = frame->type;
		join->stream = frame->stream;
	}
	if (frame->type != join->type || frame->stream != join->stream)
		return -EPROTO;
	if (more && !frame->len_bytes)
		return -EPROTO; /* or a message would never end */
	if (frame->len_bytes > join->cap_bytes - join->len_bytes)
		return -EMSGSIZE;
	memcpy(join->data + join->len_bytes, frame->payload, frame->len_bytes);
	join->len_bytes += frame->len_bytes;
	if (more)
		return 0;
	join->open = false;
	*ret_payload = join->data;
	*ret_len_bytes = join->len_bytes;
	return 1;
}
