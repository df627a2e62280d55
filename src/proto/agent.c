/* SPDX-License-Identifier: MIT */
/* Frames between the daemon and the agent: see agent.h; docs/formats/agent.md is the format.
 *
 * A decoder reads through a cursor that turns bad at the first thing that is wrong and stays so, so
 * that only its end is checked; an encoder writes through one likewise.
 */
#include "agent.h"

#include <errno.h>
#include <string.h>

/* No byte is 0 or the magic's first, and the first comes once. So a match that begins before a header
 * can't run into it, one that begins in it can't leave it (its last byte is 0), and after a mismatch
 * only the byte at hand can begin another. */
static const uint8_t mark[COP_AGENT_SYNC_BYTES] = {0xf5, 0x9e, 0xc1, 0x7b, 0xe2, 0x8d, 0xfa, 0x16,
						   0xb3, 0xd8, 0x6f, 0x95, 0xee, 0x21, 0xa4, 0xdc};

/* ------------------------------------------------------------------ frames */

static uint32_t le32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void cop_agent_rx_init(struct cop_agent_rx *rx, bool is_agent)
{
	rx->scan_always = is_agent;
	rx->scan = false;
	cop_agent_rx_hunt(rx);
}

void cop_agent_rx_hunt(struct cop_agent_rx *rx)
{
	if (!rx->scan)
		rx->matched = 0; /* else what is wrong may end with the first bytes of a mark */
	rx->scan = true;
	rx->hunting = true;
	rx->synced = false;
	rx->have = 0;
}

void cop_agent_rx_accept(struct cop_agent_rx *rx)
{
	rx->scan = rx->scan_always;
	rx->matched = 0;
}

/* Bytes up to and with the end of a mark, or 0: it does not end here. */
static size_t find_mark(uint32_t *matched, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (*matched == 0) {
			const uint8_t *first = memchr(p + i, mark[0], len - i);

			if (!first)
				return 0;
			i = (size_t)(first - p);
			*matched = 1;
		} else if (p[i] != mark[*matched]) {
			*matched = p[i] == mark[0];
		} else if (++*matched == COP_AGENT_SYNC_BYTES) {
			*matched = 0;
			return i + 1;
		}
	}
	return 0;
}

static bool head_valid(const struct cop_agent_rx *rx)
{
	const uint8_t *h = rx->buf;
	uint32_t len = h[12] | (uint32_t)h[13] << 8;

	return le32(h) == COP_AGENT_MAGIC && h[15] == 0 && h[14] != 0 &&
	       len <= (rx->synced ? COP_AGENT_SYNCED_MAX : COP_AGENT_PAYLOAD_MAX);
}

int cop_agent_rx_feed(struct cop_agent_rx *rx, const void *data, size_t len, size_t *ret_used,
		      struct cop_agent_frame *ret)
{
	const uint8_t *p = data;
	size_t used = 0;

	while (used < len) {
		size_t n = len - used, found;
		uint32_t want = COP_AGENT_HEAD_BYTES;

		if (!rx->hunting) {
			if (rx->have >= COP_AGENT_HEAD_BYTES)
				want += rx->buf[12] | (uint32_t)rx->buf[13] << 8;
			if (n > want - rx->have)
				n = want - rx->have;
		}
		found = rx->scan ? find_mark(&rx->matched, p + used, n) : 0;
		if (found) {
			used += found;
			rx->hunting = false;
			rx->synced = true;
			rx->have = 0;
			continue;
		}
		if (!rx->hunting)
			memcpy(rx->buf + rx->have, p + used, n);
		used += n;
		if (rx->hunting)
			break;
		rx->have += (uint32_t)n;
		if (rx->have < want)
			break;
		if (want == COP_AGENT_HEAD_BYTES) {
			if (!head_valid(rx)) {
				cop_agent_rx_hunt(rx);
				*ret_used = used;
				return -EBADMSG;
			}
			if (rx->buf[12] | rx->buf[13])
				continue;
		}
		ret->session = le32(rx->buf + 4);
		ret->id = le32(rx->buf + 8);
		ret->type = rx->buf[14];
		ret->synced = rx->synced;
		ret->len = rx->have - COP_AGENT_HEAD_BYTES;
		ret->payload = rx->buf + COP_AGENT_HEAD_BYTES;
		rx->synced = false;
		rx->have = 0;
		*ret_used = used;
		return 1;
	}
	*ret_used = used;
	return 0;
}

size_t cop_agent_data_fit(const void *data, size_t len)
{
	uint32_t matched = 0;
	size_t end;

	if (len > COP_AGENT_PAYLOAD_MAX - 1)
		len = COP_AGENT_PAYLOAD_MAX - 1;
	end = find_mark(&matched, data, len);
	return end ? end - 1 : len;
}

/* ------------------------------------------------------------------ cursors */

struct put {
	uint8_t *head, *at, *end;
	int error;
};

static void put_bytes(struct put *w, const void *data, size_t len)
{
	if (w->error)
		return;
	if (len > (size_t)(w->end - w->at)) {
		w->error = -E2BIG;
		return;
	}
	if (len)
		memcpy(w->at, data, len);
	w->at += len;
}

static void put_int(struct put *w, uint64_t value, unsigned bytes)
{
	uint8_t raw[8];

	for (unsigned i = 0; i < bytes; i++)
		raw[i] = (uint8_t)(value >> (8 * i));
	put_bytes(w, raw, bytes);
}

static void put_check(struct put *w, bool ok)
{
	if (!ok && !w->error)
		w->error = -EINVAL;
}

static void put_str(struct put *w, const char *text)
{
	size_t len = text ? strlen(text) : 0;

	put_check(w, text != NULL);
	if (len > UINT16_MAX)
		len = UINT16_MAX; /* too big in any case */
	put_int(w, len, 2);
	if (text)
		put_bytes(w, text, len + 1);
}

/* A text that is only shown: cut when it is long. */
static void put_text(struct put *w, const char *text)
{
	char cut[COP_AGENT_MAX_TEXT + 1];
	size_t len = text ? strnlen(text, COP_AGENT_MAX_TEXT) : 0;

	if (len)
		memcpy(cut, text, len);
	cut[len] = 0;
	put_str(w, cut);
}

static void put_list(struct put *w, const char *const *list, size_t max)
{
	size_t count = 0;

	put_check(w, list != NULL);
	while (!w->error && list[count])
		count++;
	if (count > max && !w->error)
		w->error = -E2BIG;
	put_int(w, count, 2);
	for (size_t i = 0; i < count && !w->error; i++)
		put_str(w, list[i]);
}

static struct put put_begin(uint8_t *buf, uint32_t session, uint8_t type, uint32_t id)
{
	struct put w = {.head = buf, .at = buf, .end = buf + COP_AGENT_FRAME_MAX};

	put_int(&w, COP_AGENT_MAGIC, 4);
	put_int(&w, session, 4);
	put_int(&w, id, 4);
	put_int(&w, 0, 2);
	put_int(&w, type, 1);
	put_int(&w, 0, 1);
	return w;
}

static struct put put_synced(uint8_t *buf, uint64_t session, uint8_t type)
{
	struct put w;

	memcpy(buf, mark, COP_AGENT_SYNC_BYTES);
	w = put_begin(buf + COP_AGENT_SYNC_BYTES, (uint32_t)session, type, 0);
	w.end = w.at + COP_AGENT_SYNCED_MAX;
	return w;
}

static ssize_t put_end(struct put *w)
{
	size_t len = (size_t)(w->at - w->head) - COP_AGENT_HEAD_BYTES;
	uint32_t matched = 0;

	if (w->error)
		return w->error;
	w->head[12] = (uint8_t)len;
	w->head[13] = (uint8_t)(len >> 8);
	if (find_mark(&matched, w->head, len + COP_AGENT_HEAD_BYTES))
		return -EINVAL;
	return w->at - w->head;
}

static ssize_t put_synced_end(struct put *w)
{
	ssize_t len = put_end(w);

	return len < 0 ? len : len + (ssize_t)COP_AGENT_SYNC_BYTES;
}

struct get {
	const uint8_t *at, *end;
	bool bad;
};

static struct get get_begin(const struct cop_agent_frame *f)
{
	return (struct get){.at = f->payload, .end = f->payload + f->len};
}

static const uint8_t *get_bytes(struct get *r, size_t len)
{
	const uint8_t *at = r->at;

	if (r->bad || len > (size_t)(r->end - r->at)) {
		r->bad = true;
		return NULL;
	}
	r->at += len;
	return at;
}

static uint64_t get_int(struct get *r, unsigned bytes)
{
	const uint8_t *p = get_bytes(r, bytes);
	uint64_t value = 0;

	for (unsigned i = 0; p && i < bytes; i++)
		value |= (uint64_t)p[i] << (8 * i);
	return value;
}

static void get_check(struct get *r, bool ok)
{
	if (!ok)
		r->bad = true;
}

static void get_raw(struct get *r, uint8_t *to, size_t len)
{
	const uint8_t *p = get_bytes(r, len);

	if (p)
		memcpy(to, p, len);
}

static const char *get_str(struct get *r, size_t max)
{
	size_t len = get_int(r, 2);
	const char *text = (const char *)get_bytes(r, len + 1);

	if (!text || len > max || memchr(text, 0, len + 1) != text + len) {
		r->bad = true;
		return "";
	}
	return text;
}

static const char *const *get_list(struct get *r, const char ***store, size_t max)
{
	const char **list = *store;
	size_t count = get_int(r, 2);

	if (r->bad || count > max) {
		r->bad = true;
		return NULL;
	}
	for (size_t i = 0; i < count; i++) {
		list[i] = get_str(r, UINT16_MAX);
		if (r->bad)
			return NULL;
	}
	list[count] = NULL;
	*store += count + 1;
	return (const char *const *)list;
}

static int get_end(struct get *r)
{
	return r->bad || r->at != r->end ? -EBADMSG : 0;
}

/* ----------------------------------------------------------------- opening */

ssize_t cop_agent_put_hello(uint8_t *buf, const struct cop_agent_hello *m)
{
	struct put w = put_synced(buf, m->session, COP_AGENT_HELLO);

	put_check(&w, (uint32_t)m->session != 0 && m->proto_min <= m->proto_max);
	put_int(&w, m->session, 8);
	put_int(&w, ~m->session, 8);
	put_int(&w, m->proto_min, 2);
	put_int(&w, m->proto_max, 2);
	put_int(&w, m->flags, 4);
	if (m->flags & COP_AGENT_HELLO_CLONE)
		put_bytes(&w, m->random, sizeof(m->random));
	return put_synced_end(&w);
}

int cop_agent_get_hello(const struct cop_agent_frame *f, struct cop_agent_hello *ret)
{
	struct get r = get_begin(f);
	uint64_t inverse;

	ret->session = get_int(&r, 8);
	inverse = get_int(&r, 8);
	ret->proto_min = (uint16_t)get_int(&r, 2);
	ret->proto_max = (uint16_t)get_int(&r, 2);
	ret->flags = (uint32_t)get_int(&r, 4);
	if (ret->flags & COP_AGENT_HELLO_CLONE)
		get_raw(&r, ret->random, sizeof(ret->random));
	get_check(&r, inverse == ~ret->session && (uint32_t)ret->session == f->session &&
			      f->session != 0 && ret->proto_min <= ret->proto_max);
	return r.bad ? -EBADMSG : 0; /* later versions may append */
}

ssize_t cop_agent_put_hello_ack(uint8_t *buf, const struct cop_agent_hello_ack *m)
{
	struct put w = put_synced(buf, m->session, COP_AGENT_HELLO_ACK);

	put_int(&w, m->session, 8);
	put_int(&w, m->proto, 2);
	put_int(&w, m->proto_min, 2);
	put_int(&w, m->proto_max, 2);
	put_int(&w, m->pid, 4);
	put_str(&w, m->version);
	put_str(&w, m->boot_id);
	return put_synced_end(&w);
}

int cop_agent_get_hello_ack(const struct cop_agent_frame *f, struct cop_agent_hello_ack *ret)
{
	struct get r = get_begin(f);

	ret->session = get_int(&r, 8);
	ret->proto = (uint16_t)get_int(&r, 2);
	ret->proto_min = (uint16_t)get_int(&r, 2);
	ret->proto_max = (uint16_t)get_int(&r, 2);
	ret->pid = (uint32_t)get_int(&r, 4);
	ret->version = get_str(&r, 64);
	ret->boot_id = get_str(&r, 64);
	get_check(&r, (uint32_t)ret->session == f->session && ret->proto_min <= ret->proto &&
			      ret->proto <= ret->proto_max);
	return r.bad ? -EBADMSG : 0; /* later versions may append */
}

ssize_t cop_agent_put_refused(uint8_t *buf, const struct cop_agent_refused *m)
{
	struct put w = put_synced(buf, m->session, COP_AGENT_REFUSED);

	put_int(&w, m->session, 8);
	put_int(&w, m->proto_min, 2);
	put_int(&w, m->proto_max, 2);
	put_text(&w, m->text);
	return put_synced_end(&w);
}

int cop_agent_get_refused(const struct cop_agent_frame *f, struct cop_agent_refused *ret)
{
	struct get r = get_begin(f);

	ret->session = get_int(&r, 8);
	ret->proto_min = (uint16_t)get_int(&r, 2);
	ret->proto_max = (uint16_t)get_int(&r, 2);
	ret->text = get_str(&r, COP_AGENT_MAX_TEXT);
	get_check(&r,
		  (uint32_t)ret->session == f->session && ret->proto_min <= ret->proto_max);
	return r.bad ? -EBADMSG : 0;
}

ssize_t cop_agent_put_ready(uint8_t *buf)
{
	struct put w = put_synced(buf, 0, COP_AGENT_READY);

	return put_synced_end(&w);
}

/* ---------------------------------------------------------------- commands */

ssize_t cop_agent_put_empty(uint8_t *buf, uint32_t session, uint8_t type, uint32_t id)
{
	struct put w = put_begin(buf, session, type, id);

	return put_end(&w);
}

int cop_agent_get_empty(const struct cop_agent_frame *f)
{
	return f->len ? -EBADMSG : 0;
}

ssize_t cop_agent_put_data(uint8_t *buf, uint32_t session, uint32_t id, uint8_t stream,
			   const void *data, size_t len)
{
	struct put w = put_begin(buf, session, COP_AGENT_DATA, id);

	put_check(&w, len > 0 && stream <= COP_AGENT_STDERR);
	put_int(&w, stream, 1);
	put_bytes(&w, data, len);
	if (w.error || stream == COP_AGENT_STDIN)
		return put_end(&w);
	w.head[12] = (uint8_t)(len + 1); /* from the guest: any bytes */
	w.head[13] = (uint8_t)((len + 1) >> 8);
	return w.at - w.head;
}

int cop_agent_get_data(const struct cop_agent_frame *f, uint8_t *ret_stream,
		       const uint8_t **ret_data, size_t *ret_len)
{
	if (f->len < 2 || f->payload[0] > COP_AGENT_STDERR)
		return -EBADMSG;
	*ret_stream = f->payload[0];
	*ret_data = f->payload + 1;
	*ret_len = f->len - 1;
	return 0;
}

ssize_t cop_agent_put_eof(uint8_t *buf, uint32_t session, uint32_t id, uint8_t stream)
{
	struct put w = put_begin(buf, session, COP_AGENT_EOF, id);

	put_check(&w, stream <= COP_AGENT_STDERR);
	put_int(&w, stream, 1);
	return put_end(&w);
}

int cop_agent_get_eof(const struct cop_agent_frame *f, uint8_t *ret_stream)
{
	if (f->len != 1 || f->payload[0] > COP_AGENT_STDERR)
		return -EBADMSG;
	*ret_stream = f->payload[0];
	return 0;
}

ssize_t cop_agent_put_credit(uint8_t *buf, uint32_t session, uint32_t id, uint8_t stream,
			     uint32_t bytes)
{
	struct put w = put_begin(buf, session, COP_AGENT_CREDIT, id);

	put_check(&w, stream <= COP_AGENT_STDERR && bytes >= 1 && bytes <= COP_AGENT_WINDOW_MAX);
	put_int(&w, stream, 1);
	put_int(&w, bytes, 4);
	return put_end(&w);
}

int cop_agent_get_credit(const struct cop_agent_frame *f, uint8_t *ret_stream, uint32_t *ret_bytes)
{
	struct get r = get_begin(f);
	uint8_t stream = (uint8_t)get_int(&r, 1);
	uint32_t bytes = (uint32_t)get_int(&r, 4);

	get_check(&r, stream <= COP_AGENT_STDERR && bytes >= 1 && bytes <= COP_AGENT_WINDOW_MAX);
	*ret_stream = stream;
	*ret_bytes = bytes;
	return get_end(&r);
}

ssize_t cop_agent_put_signal(uint8_t *buf, uint32_t session, uint32_t id, uint8_t number)
{
	struct put w = put_begin(buf, session, COP_AGENT_SIGNAL, id);

	put_check(&w, number >= 1 && number <= 64);
	put_int(&w, number, 1);
	return put_end(&w);
}

int cop_agent_get_signal(const struct cop_agent_frame *f, uint8_t *ret_number)
{
	if (f->len != 1 || f->payload[0] < 1 || f->payload[0] > 64)
		return -EBADMSG;
	*ret_number = f->payload[0];
	return 0;
}

ssize_t cop_agent_put_resize(uint8_t *buf, uint32_t session, uint32_t id, uint16_t rows,
			     uint16_t columns)
{
	struct put w = put_begin(buf, session, COP_AGENT_RESIZE, id);

	put_int(&w, rows, 2);
	put_int(&w, columns, 2);
	return put_end(&w);
}

int cop_agent_get_resize(const struct cop_agent_frame *f, uint16_t *ret_rows,
			 uint16_t *ret_columns)
{
	struct get r = get_begin(f);

	*ret_rows = (uint16_t)get_int(&r, 2);
	*ret_columns = (uint16_t)get_int(&r, 2);
	return get_end(&r);
}

static ssize_t put_limit(uint8_t *buf, uint32_t session, uint8_t type, uint32_t id,
			 uint32_t timeout_ms)
{
	struct put w = put_begin(buf, session, type, id);

	put_check(&w, timeout_ms != 0);
	put_int(&w, timeout_ms, 4);
	return put_end(&w);
}

ssize_t cop_agent_put_quiesce(uint8_t *buf, uint32_t session, uint32_t id, uint32_t timeout_ms)
{
	return put_limit(buf, session, COP_AGENT_QUIESCE, id, timeout_ms);
}

ssize_t cop_agent_put_hold(uint8_t *buf, uint32_t session, uint32_t id, uint32_t timeout_ms)
{
	return put_limit(buf, session, COP_AGENT_HOLD, id, timeout_ms);
}

int cop_agent_get_limit(const struct cop_agent_frame *f, uint32_t *ret_timeout_ms)
{
	struct get r = get_begin(f);

	*ret_timeout_ms = (uint32_t)get_int(&r, 4);
	get_check(&r, *ret_timeout_ms != 0);
	return get_end(&r);
}

ssize_t cop_agent_put_exec(uint8_t *buf, uint32_t session, uint32_t id,
			   const struct cop_agent_exec *m)
{
	struct put w = put_begin(buf, session, COP_AGENT_EXEC, id);

	put_check(&w, id != 0 && !(m->flags & ~COP_AGENT_EXEC_TTY) && m->argv && m->argv[0]);
	put_int(&w, m->flags, 4);
	put_int(&w, m->rows, 2);
	put_int(&w, m->columns, 2);
	put_int(&w, m->timeout_ms, 4);
	put_int(&w, m->cpu_percent, 4);
	put_int(&w, m->memory_max, 8);
	put_str(&w, m->user);
	put_str(&w, m->cwd);
	put_list(&w, m->argv, COP_AGENT_MAX_STRINGS / 2 - 1);
	put_list(&w, m->env, COP_AGENT_MAX_STRINGS / 2 - 1);
	return put_end(&w);
}

int cop_agent_get_exec(const struct cop_agent_frame *f, const char **store,
		       struct cop_agent_exec *ret)
{
	struct get r = get_begin(f);

	ret->flags = (uint32_t)get_int(&r, 4);
	ret->rows = (uint16_t)get_int(&r, 2);
	ret->columns = (uint16_t)get_int(&r, 2);
	ret->timeout_ms = (uint32_t)get_int(&r, 4);
	ret->cpu_percent = (uint32_t)get_int(&r, 4);
	ret->memory_max = get_int(&r, 8);
	ret->user = get_str(&r, 256);
	ret->cwd = get_str(&r, 4095);
	ret->argv = get_list(&r, &store, COP_AGENT_MAX_STRINGS / 2 - 1);
	ret->env = get_list(&r, &store, COP_AGENT_MAX_STRINGS / 2 - 1);
	get_check(&r, f->id != 0 && !(ret->flags & ~COP_AGENT_EXEC_TTY));
	get_check(&r, ret->argv && ret->argv[0]);
	for (size_t i = 0; !r.bad && ret->env[i]; i++)
		get_check(&r, ret->env[i][0] != '=' && strchr(ret->env[i], '='));
	return get_end(&r);
}

static bool exit_valid(const struct cop_agent_exit *m)
{
	return !(m->flags & ~COP_AGENT_EXIT_TIMEOUT) &&
	       ((m->signal == -1 && m->status >= 0 && m->status <= 255) ||
		(m->status == -1 && m->signal >= 1 && m->signal <= 64));
}

ssize_t cop_agent_put_exit(uint8_t *buf, uint32_t session, uint32_t id,
			   const struct cop_agent_exit *m)
{
	struct put w = put_begin(buf, session, COP_AGENT_EXIT, id);

	put_check(&w, exit_valid(m));
	put_int(&w, (uint32_t)m->status, 4);
	put_int(&w, (uint32_t)m->signal, 4);
	put_int(&w, m->flags, 4);
	return put_end(&w);
}

int cop_agent_get_exit(const struct cop_agent_frame *f, struct cop_agent_exit *ret)
{
	struct get r = get_begin(f);

	ret->status = (int32_t)get_int(&r, 4);
	ret->signal = (int32_t)get_int(&r, 4);
	ret->flags = (uint32_t)get_int(&r, 4);
	get_check(&r, exit_valid(ret));
	return get_end(&r);
}

ssize_t cop_agent_put_error(uint8_t *buf, uint32_t session, uint32_t id, uint32_t code,
			    const char *text)
{
	struct put w = put_begin(buf, session, COP_AGENT_ERROR, id);

	put_check(&w, code >= 1 && code <= 4095);
	put_int(&w, code, 4);
	put_text(&w, text);
	return put_end(&w);
}

int cop_agent_get_error(const struct cop_agent_frame *f, struct cop_agent_error *ret)
{
	struct get r = get_begin(f);

	ret->code = (uint32_t)get_int(&r, 4);
	ret->text = get_str(&r, COP_AGENT_MAX_TEXT);
	get_check(&r, ret->code >= 1 && ret->code <= 4095);
	return get_end(&r);
}

/* ---------------------------------------------------------------- identity */

static bool machine_id_valid(const char *id)
{
	return !*id || (strlen(id) == 32 && strspn(id, "0123456789abcdef") == 32);
}

/* A name that may stand in a line of /etc/hosts. */
static bool hostname_valid(const char *name)
{
	return strlen(name) <= 63 && name[0] != '-' && name[0] != '.' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") ==
		       strlen(name);
}

static bool params_valid(const char *const *params)
{
	for (size_t i = 0; params[i]; i++)
		if (params[i][0] == '=' || !strchr(params[i], '='))
			return false;
	return true;
}

static bool identify_valid(const struct cop_agent_identify *m)
{
	return !(m->flags & ~COP_AGENT_IDENTIFY_SSH_KEYS) && m->index < m->count &&
	       m->hook_timeout_ms && m->net_timeout_ms && m->nr_nics <= COP_AGENT_MAX_NICS &&
	       m->name && m->template && m->hostname && hostname_valid(m->hostname) &&
	       m->machine_id && machine_id_valid(m->machine_id) && m->params &&
	       params_valid(m->params);
}

ssize_t cop_agent_put_identify(uint8_t *buf, uint32_t session, uint32_t id,
			       const struct cop_agent_identify *m)
{
	struct put w = put_begin(buf, session, COP_AGENT_IDENTIFY, id);

	put_check(&w, identify_valid(m));
	put_int(&w, m->flags, 4);
	put_int(&w, m->index, 4);
	put_int(&w, m->count, 4);
	put_int(&w, m->hook_timeout_ms, 4);
	put_int(&w, m->net_timeout_ms, 4);
	put_int(&w, m->wall_ns, 8);
	put_bytes(&w, m->random, COP_AGENT_RANDOM);
	put_str(&w, m->name);
	put_str(&w, m->template);
	put_str(&w, m->hostname);
	put_str(&w, m->machine_id);
	put_list(&w, m->params, COP_AGENT_MAX_PARAMS);
	put_int(&w, m->nr_nics, 1);
	for (uint32_t i = 0; i < m->nr_nics && !w.error; i++) {
		put_int(&w, m->nics[i].index, 1);
		put_bytes(&w, m->nics[i].old, 6);
		put_bytes(&w, m->nics[i].new, 6);
	}
	return put_end(&w);
}

int cop_agent_get_identify(const struct cop_agent_frame *f, const char **store,
			   struct cop_agent_identify *ret)
{
	struct get r = get_begin(f);

	ret->flags = (uint32_t)get_int(&r, 4);
	ret->index = (uint32_t)get_int(&r, 4);
	ret->count = (uint32_t)get_int(&r, 4);
	ret->hook_timeout_ms = (uint32_t)get_int(&r, 4);
	ret->net_timeout_ms = (uint32_t)get_int(&r, 4);
	ret->wall_ns = get_int(&r, 8);
	get_raw(&r, ret->random, COP_AGENT_RANDOM);
	ret->name = get_str(&r, 256);
	ret->template = get_str(&r, 256);
	ret->hostname = get_str(&r, 63);
	ret->machine_id = get_str(&r, 32);
	ret->params = get_list(&r, &store, COP_AGENT_MAX_PARAMS);
	ret->nr_nics = (uint32_t)get_int(&r, 1);
	get_check(&r, ret->nr_nics <= COP_AGENT_MAX_NICS);
	for (uint32_t i = 0; !r.bad && i < ret->nr_nics; i++) {
		ret->nics[i].index = (uint8_t)get_int(&r, 1);
		get_raw(&r, ret->nics[i].old, 6);
		get_raw(&r, ret->nics[i].new, 6);
	}
	get_check(&r, !r.bad && identify_valid(ret));
	return get_end(&r);
}

ssize_t cop_agent_put_identified(uint8_t *buf, uint32_t session, uint32_t id,
				 const struct cop_agent_identified *m)
{
	struct put w = put_begin(buf, session, COP_AGENT_IDENTIFIED, id);

	put_check(&w, m->nr_steps <= COP_AGENT_MAX_STEPS);
	put_int(&w, m->nr_steps, 1);
	for (uint32_t i = 0; i < m->nr_steps && !w.error; i++) {
		put_check(&w, m->steps[i].result <= COP_AGENT_TIMEOUT);
		put_int(&w, m->steps[i].result, 1);
		put_int(&w, m->steps[i].took_us, 4);
		put_str(&w, m->steps[i].name);
		put_text(&w, m->steps[i].text);
	}
	return put_end(&w);
}

int cop_agent_get_identified(const struct cop_agent_frame *f, struct cop_agent_identified *ret)
{
	struct get r = get_begin(f);

	ret->nr_steps = (uint32_t)get_int(&r, 1);
	get_check(&r, ret->nr_steps <= COP_AGENT_MAX_STEPS);
	for (uint32_t i = 0; !r.bad && i < ret->nr_steps; i++) {
		ret->steps[i].result = (uint8_t)get_int(&r, 1);
		ret->steps[i].took_us = (uint32_t)get_int(&r, 4);
		ret->steps[i].name = get_str(&r, 128);
		ret->steps[i].text = get_str(&r, COP_AGENT_MAX_TEXT);
		get_check(&r, ret->steps[i].result <= COP_AGENT_TIMEOUT);
	}
	return get_end(&r);
}

ssize_t cop_agent_put_quiesced(uint8_t *buf, uint32_t session, uint32_t id,
			       const struct cop_agent_quiesced *m)
{
	struct put w = put_begin(buf, session, COP_AGENT_QUIESCED, id);

	put_int(&w, m->nr_frozen, 4);
	put_text(&w, m->text);
	return put_end(&w);
}

int cop_agent_get_quiesced(const struct cop_agent_frame *f, struct cop_agent_quiesced *ret)
{
	struct get r = get_begin(f);

	ret->nr_frozen = (uint32_t)get_int(&r, 4);
	ret->text = get_str(&r, COP_AGENT_MAX_TEXT);
	return get_end(&r);
}

/* ---------------------------------------------------------------- requests */

static bool request_valid(const struct cop_agent_request *m)
{
	if (!m->name || !m->params || !params_valid(m->params))
		return false;
	switch (m->kind) {
	case COP_AGENT_REQUEST_FREEZE:
		return m->name[0] && !m->count && !m->params[0];
	case COP_AGENT_REQUEST_FORK:
		return m->count && !m->name[0];
	case COP_AGENT_REQUEST_INFO:
		return !m->count && !m->name[0] && !m->params[0];
	default:
		return false;
	}
}

ssize_t cop_agent_put_request(uint8_t *buf, uint32_t session, uint32_t id,
			      const struct cop_agent_request *m)
{
	struct put w = put_begin(buf, session, COP_AGENT_REQUEST, id);

	put_check(&w, id != 0 && request_valid(m));
	put_int(&w, m->kind, 1);
	put_int(&w, m->count, 4);
	put_str(&w, m->name);
	put_list(&w, m->params, COP_AGENT_MAX_PARAMS);
	return put_end(&w);
}

int cop_agent_get_request(const struct cop_agent_frame *f, const char **store,
			  struct cop_agent_request *ret)
{
	struct get r = get_begin(f);

	ret->kind = (uint8_t)get_int(&r, 1);
	ret->count = (uint32_t)get_int(&r, 4);
	ret->name = get_str(&r, 256);
	ret->params = get_list(&r, &store, COP_AGENT_MAX_PARAMS);
	get_check(&r, !r.bad && f->id != 0 && request_valid(ret));
	return get_end(&r);
}

ssize_t cop_agent_put_response(uint8_t *buf, uint32_t session, uint32_t id,
			       const struct cop_agent_response *m)
{
	struct put w = put_begin(buf, session, COP_AGENT_RESPONSE, id);

	put_check(&w, m->role <= COP_AGENT_ROLE_CLONE);
	put_int(&w, m->role, 1);
	put_int(&w, m->index, 4);
	put_int(&w, m->count, 4);
	put_text(&w, m->text);
	put_str(&w, m->name);
	put_str(&w, m->template);
	put_list(&w, m->params, COP_AGENT_MAX_STRINGS / 2 - 1);
	return put_end(&w);
}

int cop_agent_get_response(const struct cop_agent_frame *f, const char **store,
			   struct cop_agent_response *ret)
{
	struct get r = get_begin(f);

	ret->role = (uint8_t)get_int(&r, 1);
	ret->index = (uint32_t)get_int(&r, 4);
	ret->count = (uint32_t)get_int(&r, 4);
	ret->text = get_str(&r, COP_AGENT_MAX_TEXT);
	ret->name = get_str(&r, 256);
	ret->template = get_str(&r, 256);
	ret->params = get_list(&r, &store, COP_AGENT_MAX_STRINGS / 2 - 1);
	get_check(&r, ret->role <= COP_AGENT_ROLE_CLONE);
	return get_end(&r);
}
