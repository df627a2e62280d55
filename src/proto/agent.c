/* SPDX-License-Identifier: MIT */
/*
 * agent.c: payloads of the agent's protocol taken apart and made. See agent.h and
 * docs/formats/agent.md.
 *
 * A reader of a payload goes wrong once and stays so: each take_...() after the first that does not
 * fit yields 0 or "". The end of a _get() looks at that, and at bytes left over.
 */
#include "proto/agent.h"

#include <errno.h>
#include <string.h>

/* ---- reading */

struct reader {
	const uint8_t *at, *end;
	bool bad;
};

static struct reader reader_of(const void *data, size_t len)
{
	const uint8_t *at = data;

	return (struct reader){.at = at, .end = at ? at + len : at};
}

static uint64_t take(struct reader *r, unsigned nr_bytes)
{
	uint64_t value = 0;

	if (r->bad || (size_t)(r->end - r->at) < nr_bytes) {
		r->bad = true;
		return 0;
	}
	for (unsigned i = 0; i < nr_bytes; i++)
		value |= (uint64_t)r->at[i] << (8 * i);
	r->at += nr_bytes;
	return value;
}

static uint32_t take_u32(struct reader *r)
{
	return (uint32_t)take(r, 4);
}

static uint32_t take_u32_in(struct reader *r, uint32_t lowest, uint32_t highest)
{
	uint32_t value = take_u32(r);

	if (value < lowest || value > highest)
		r->bad = true;
	return value;
}

static void take_bytes(struct reader *r, uint8_t *ret, size_t len)
{
	if (r->bad || (size_t)(r->end - r->at) < len) {
		r->bad = true;
		return;
	}
	memcpy(ret, r->at, len);
	r->at += len;
}

static const char *take_string(struct reader *r, size_t max_bytes)
{
	const char *text = (const char *)r->at;
	const uint8_t *nul =
		r->bad || r->at == r->end ? NULL : memchr(r->at, 0, (size_t)(r->end - r->at));

	if (!nul || (size_t)(nul - r->at) > max_bytes) {
		r->bad = true;
		return "";
	}
	r->at = nul + 1;
	return text;
}

static struct cop_agent_words take_words(struct reader *r, unsigned max_nr, size_t max_bytes)
{
	struct cop_agent_words words = {.nr = take_u32_in(r, 0, max_nr)};

	words.at = (const char *)r->at;
	for (unsigned i = 0; i < words.nr && !r->bad; i++)
		(void)take_string(r, max_bytes);
	if (r->bad)
		return (struct cop_agent_words){.at = ""};
	return words;
}

/* A name for the environment, once '.', '-' and '/' have become '_'. */
static bool key_valid(const char *key)
{
	size_t len =
		strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/");

	return len >= 1 && len <= COP_AGENT_KEY_BYTES && !key[len];
}

static struct cop_agent_words take_params(struct reader *r)
{
	struct cop_agent_words params = take_words(r, 2 * COP_AGENT_MAX_PARAMS,
						   COP_AGENT_VALUE_BYTES),
			       rest = params;

	if (params.nr % 2)
		r->bad = true;
	while (!r->bad && rest.nr) {
		if (!key_valid(cop_agent_words_next(&rest)))
			r->bad = true;
		(void)cop_agent_words_next(&rest);
	}
	return r->bad ? (struct cop_agent_words){.at = ""} : params;
}

static int end_of(const struct reader *r)
{
	return r->bad || r->at != r->end ? -EBADMSG : 0;
}

const char *cop_agent_words_next(struct cop_agent_words *words)
{
	const char *word = words->at;

	if (!words->nr)
		return NULL;
	words->nr--;
	words->at += strlen(word) + 1;
	return word;
}

int cop_agent_hello_get(const void *data, size_t len_bytes, struct cop_agent_hello *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_hello hello = {0};

	hello.version_min = take_u32_in(&r, 1, UINT32_MAX);
	hello.version_max = take_u32(&r);
	hello.flags = take_u32(&r); /* unknown ones belong to later versions */

	if (r.bad || hello.version_max < hello.version_min)
		return -EBADMSG;
	*ret = hello;
	return 0;
}

int cop_agent_hello_ack_get(const void *data, size_t len_bytes, struct cop_agent_hello_ack *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_hello_ack ack = {0};

	ack.version = take_u32(&r);
	ack.version_min = take_u32_in(&r, 1, UINT32_MAX);
	ack.version_max = take_u32(&r);
	ack.max_runs = take_u32(&r);
	ack.runs = take_u32(&r);
	ack.program = take_string(&r, COP_AGENT_TEXT_BYTES);

	if (r.bad || ack.version_max < ack.version_min ||
	    (ack.version && (ack.version < ack.version_min || ack.version > ack.version_max)))
		return -EBADMSG;
	*ret = ack;
	return 0;
}

int cop_agent_identity_get(const void *data, size_t len_bytes, struct cop_agent_identity *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_identity id = {0};

	id.flags = take_u32(&r);
	id.index = take_u32(&r);
	id.count = take_u32(&r);
	id.hook_timeout_ms = take_u32(&r);
	id.wall_ns = take(&r, 8);

	take_bytes(&r, id.random, sizeof(id.random));
	take_bytes(&r, id.machine_id, sizeof(id.machine_id));
	id.nr_nics = take_u32_in(&r, 0, COP_AGENT_MAX_NICS);
	for (unsigned i = 0; i < id.nr_nics && !r.bad; i++)
		take_bytes(&r, id.nics[i].mac, sizeof(id.nics[i].mac));
	id.name = take_string(&r, COP_AGENT_NAME_BYTES);
	id.hostname = take_string(&r, COP_AGENT_NAME_BYTES);
	id.template_name = take_string(&r, COP_AGENT_NAME_BYTES);
	id.params = take_params(&r);
	if (end_of(&r) < 0)
		return -EBADMSG;
	*ret = id;
	return 0;
}

static struct cop_agent_step take_step(struct reader *r)
{
	struct cop_agent_step step = {0};

	step.status = take_u32_in(r, 0, COP_AGENT_TIMED_OUT);
	step.time_us = take_u32(r);
	step.name = take_string(r, COP_AGENT_NAME_BYTES);
	step.text = take_string(r, COP_AGENT_TEXT_BYTES);
	return step;
}

int cop_agent_identified_get(const void *data, size_t len_bytes, struct cop_agent_steps *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_steps steps = {.nr = take_u32_in(&r, 0, COP_AGENT_MAX_STEPS)};

	steps.at = r.at;
	steps.end = r.end;
	for (unsigned i = 0; i < steps.nr && !r.bad; i++)
		(void)take_step(&r);
	if (end_of(&r) < 0)
		return -EBADMSG;
	*ret = steps;
	return 0;
}

bool cop_agent_steps_next(struct cop_agent_steps *steps, struct cop_agent_step *ret)
{
	struct reader r = {.at = steps->at, .end = steps->end};

	if (!steps->nr)
		return false;
	*ret = take_step(&r);
	steps->at = r.at;
	steps->nr--;
	return true;
}

int cop_agent_quiesce_get(const void *data, size_t len_bytes, struct cop_agent_quiesce *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_quiesce quiesce = {0};

	quiesce.timeout_ms = take_u32_in(&r, 1, 600000);
	quiesce.hold_ms = take_u32_in(&r, 1, 600000);

	if (end_of(&r) < 0)
		return -EBADMSG;
	*ret = quiesce;
	return 0;
}

int cop_agent_result_get(const void *data, size_t len_bytes, struct cop_agent_result *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_result result = {0};

	result.status = take_u32_in(&r, 0, COP_AGENT_TIMED_OUT);
	result.number = take_u32(&r);
	result.text = take_string(&r, COP_AGENT_TEXT_BYTES);

	if (end_of(&r) < 0)
		return -EBADMSG;
	*ret = result;
	return 0;
}

int cop_agent_command_get(const void *data, size_t len_bytes, struct cop_agent_command *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_command command = {0};

	command.flags = take_u32_in(
		&r, 0, COP_AGENT_EXEC_TTY | COP_AGENT_EXEC_STDIN | COP_AGENT_EXEC_CLEAR_ENV);
	command.timeout_ms = take_u32(&r);
	command.credit = take_u32_in(&r, 0, COP_AGENT_CREDIT_MAX);
	command.rows = (uint16_t)take(&r, 2);
	command.columns = (uint16_t)take(&r, 2);
	command.user = take_string(&r, COP_AGENT_NAME_BYTES);
	command.cwd = take_string(&r, COP_AGENT_PATH_BYTES);
	command.argv = take_words(&r, COP_AGENT_MAX_WORDS, COP_AGENT_MESSAGE_BYTES);
	command.env = take_words(&r, COP_AGENT_MAX_WORDS, COP_AGENT_MESSAGE_BYTES);

	if (end_of(&r) < 0 || !command.argv.nr || !*command.argv.at)
		return -EBADMSG;
	for (struct cop_agent_words env = command.env; env.nr;) {
		const char *word = cop_agent_words_next(&env), *equals = strchr(word, '=');

		if (!equals || equals == word)
			return -EBADMSG;
	}
	*ret = command;
	return 0;
}

static int number_get(const void *data, size_t len, uint32_t highest, uint32_t *ret)
{
	struct reader r = reader_of(data, len);
	uint32_t value = take_u32_in(&r, 1, highest);

	if (end_of(&r) < 0)
		return -EBADMSG;
	*ret = value;
	return 0;
}

int cop_agent_credit_get(const void *data, size_t len_bytes, uint32_t *ret)
{
	return number_get(data, len_bytes, COP_AGENT_CREDIT_MAX, ret);
}

int cop_agent_signal_get(const void *data, size_t len_bytes, uint32_t *ret)
{
	return number_get(data, len_bytes, 64, ret);
}

int cop_agent_resize_get(const void *data, size_t len_bytes, uint16_t *ret_rows,
			 uint16_t *ret_columns)
{
	struct reader r = reader_of(data, len_bytes);
	uint16_t rows = (uint16_t)take(&r, 2), columns = (uint16_t)take(&r, 2);

	if (end_of(&r) < 0)
		return -EBADMSG;
	*ret_rows = rows;
	*ret_columns = columns;
	return 0;
}

int cop_agent_exit_get(const void *data, size_t len_bytes, struct cop_agent_exit *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_exit ended = {0};

	ended.kind = take_u32_in(&r, 0, COP_AGENT_EXIT_TIMEOUT);
	ended.value = take_u32_in(&r, 0, 4095);
	ended.text = take_string(&r, COP_AGENT_TEXT_BYTES);

	if (end_of(&r) < 0 || (ended.kind == COP_AGENT_EXIT_STATUS && ended.value > 255) ||
	    (ended.kind == COP_AGENT_EXIT_SIGNAL && (ended.value < 1 || ended.value > 64)))
		return -EBADMSG;
	*ret = ended;
	return 0;
}

int cop_agent_request_get(const void *data, size_t len_bytes, struct cop_agent_request *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_request request = {0};

	request.kind = take_u32_in(&r, COP_AGENT_FREEZE, COP_AGENT_FORK);
	request.count = take_u32_in(&r, 0, COP_AGENT_FORKS_MAX);
	request.name = take_string(&r, COP_AGENT_NAME_BYTES);
	request.params = take_params(&r);

	if (end_of(&r) < 0 || (request.kind == COP_AGENT_FORK) != (request.count > 0))
		return -EBADMSG;
	*ret = request;
	return 0;
}

int cop_agent_reply_get(const void *data, size_t len_bytes, struct cop_agent_reply *ret)
{
	struct reader r = reader_of(data, len_bytes);
	struct cop_agent_reply reply = {0};

	reply.status = take_u32_in(&r, 0, COP_AGENT_TIMED_OUT);
	reply.count = take_u32_in(&r, 0, COP_AGENT_FORKS_MAX);
	reply.text = take_string(&r, COP_AGENT_TEXT_BYTES);
	reply.name = take_string(&r, COP_AGENT_NAME_BYTES);
	reply.names = take_words(&r, COP_AGENT_FORKS_MAX, COP_AGENT_NAME_BYTES);

	if (end_of(&r) < 0)
		return -EBADMSG;
	*ret = reply;
	return 0;
}

/* ---- writing */

static void put_bytes(struct cop_agent_buf *buf, const void *data, size_t len)
{
	if (buf->overflow || len > buf->cap_bytes - buf->len_bytes) {
		buf->overflow = true;
		return;
	}
	if (len)
		memcpy(buf->data + buf->len_bytes, data, len);
	buf->len_bytes += len;
}

static void put_integer(struct cop_agent_buf *buf, uint64_t value, unsigned nr_bytes)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < nr_bytes; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
	put_bytes(buf, bytes, nr_bytes);
}

void cop_agent_put_u32(struct cop_agent_buf *buf, uint32_t value)
{
	put_integer(buf, value, 4);
}

void cop_agent_put_string(struct cop_agent_buf *buf, const char *text, size_t max_bytes)
{
	size_t len = text ? strlen(text) : 0;

	if (len > max_bytes)
		buf->overflow = true;
	else
		put_bytes(buf, text ? text : "", len + 1);
}

static void put_words(struct cop_agent_buf *buf, const char *const *words, unsigned max_nr,
		      size_t max_bytes)
{
	uint32_t nr = 0;

	while (words && words[nr])
		nr++;
	if (nr > max_nr)
		buf->overflow = true;
	cop_agent_put_u32(buf, nr);
	for (uint32_t i = 0; i < nr; i++)
		cop_agent_put_string(buf, words[i], max_bytes);
}

static void put_params(struct cop_agent_buf *buf, const char *const *params)
{
	unsigned nr = 0;

	for (; params && params[nr]; nr++) {
		if (nr % 2 == 0 && !key_valid(params[nr]))
			buf->overflow = true;
	}
	if (nr % 2)
		buf->overflow = true;
	put_words(buf, params, 2 * COP_AGENT_MAX_PARAMS, COP_AGENT_VALUE_BYTES);
}

void cop_agent_hello_put(struct cop_agent_buf *buf, const struct cop_agent_hello *hello)
{
	cop_agent_put_u32(buf, hello->version_min);
	cop_agent_put_u32(buf, hello->version_max);
	cop_agent_put_u32(buf, hello->flags);
}

void cop_agent_hello_ack_put(struct cop_agent_buf *buf, const struct cop_agent_hello_ack *ack)
{
	cop_agent_put_u32(buf, ack->version);
	cop_agent_put_u32(buf, ack->version_min);
	cop_agent_put_u32(buf, ack->version_max);
	cop_agent_put_u32(buf, ack->max_runs);
	cop_agent_put_u32(buf, ack->runs);
	cop_agent_put_string(buf, ack->program, COP_AGENT_TEXT_BYTES);
}

void cop_agent_identity_put(struct cop_agent_buf *buf, const struct cop_agent_identity *id,
			    const char *const *params)
{
	cop_agent_put_u32(buf, id->flags);
	cop_agent_put_u32(buf, id->index);
	cop_agent_put_u32(buf, id->count);
	cop_agent_put_u32(buf, id->hook_timeout_ms);
	put_integer(buf, id->wall_ns, 8);
	put_bytes(buf, id->random, sizeof(id->random));
	put_bytes(buf, id->machine_id, sizeof(id->machine_id));
	if (id->nr_nics > COP_AGENT_MAX_NICS) {
		buf->overflow = true;
		return;
	}
	cop_agent_put_u32(buf, id->nr_nics);
	for (unsigned i = 0; i < id->nr_nics; i++)
		put_bytes(buf, id->nics[i].mac, sizeof(id->nics[i].mac));
	cop_agent_put_string(buf, id->name, COP_AGENT_NAME_BYTES);
	cop_agent_put_string(buf, id->hostname, COP_AGENT_NAME_BYTES);
	cop_agent_put_string(buf, id->template_name, COP_AGENT_NAME_BYTES);
	put_params(buf, params);
}

void cop_agent_step_put(struct cop_agent_buf *buf, const struct cop_agent_step *step)
{
	cop_agent_put_u32(buf, step->status);
	cop_agent_put_u32(buf, step->time_us);
	cop_agent_put_string(buf, step->name, COP_AGENT_NAME_BYTES);
	cop_agent_put_string(buf, step->text, COP_AGENT_TEXT_BYTES);
}

void cop_agent_quiesce_put(struct cop_agent_buf *buf, const struct cop_agent_quiesce *quiesce)
{
	cop_agent_put_u32(buf, quiesce->timeout_ms);
	cop_agent_put_u32(buf, quiesce->hold_ms);
}

void cop_agent_result_put(struct cop_agent_buf *buf, const struct cop_agent_result *result)
{
	cop_agent_put_u32(buf, result->status);
	cop_agent_put_u32(buf, result->number);
	cop_agent_put_string(buf, result->text, COP_AGENT_TEXT_BYTES);
}

void cop_agent_command_put(struct cop_agent_buf *buf, const struct cop_agent_command *command,
			   const char *const *argv, const char *const *env)
{
	cop_agent_put_u32(buf, command->flags);
	cop_agent_put_u32(buf, command->timeout_ms);
	cop_agent_put_u32(buf, command->credit);
	cop_agent_resize_put(buf, command->rows, command->columns);
	cop_agent_put_string(buf, command->user, COP_AGENT_NAME_BYTES);
	cop_agent_put_string(buf, command->cwd, COP_AGENT_PATH_BYTES);
	put_words(buf, argv, COP_AGENT_MAX_WORDS, COP_AGENT_MESSAGE_BYTES);
	put_words(buf, env, COP_AGENT_MAX_WORDS, COP_AGENT_MESSAGE_BYTES);
}

void cop_agent_resize_put(struct cop_agent_buf *buf, uint16_t rows, uint16_t columns)
{
	put_integer(buf, rows, 2);
	put_integer(buf, columns, 2);
}

void cop_agent_exit_put(struct cop_agent_buf *buf, const struct cop_agent_exit *ended)
{
	cop_agent_put_u32(buf, ended->kind);
	cop_agent_put_u32(buf, ended->value);
	cop_agent_put_string(buf, ended->text, COP_AGENT_TEXT_BYTES);
}

void cop_agent_request_put(struct cop_agent_buf *buf, const struct cop_agent_request *request,
			   const char *const *params)
{
	cop_agent_put_u32(buf, request->kind);
	cop_agent_put_u32(buf, request->count);
	cop_agent_put_string(buf, request->name, COP_AGENT_NAME_BYTES);
	put_params(buf, params);
}

void cop_agent_reply_put(struct cop_agent_buf *buf, const struct cop_agent_reply *reply,
			 const char *const *names)
{
	cop_agent_put_u32(buf, reply->status);
	cop_agent_put_u32(buf, reply->count);
	cop_agent_put_string(buf, reply->text, COP_AGENT_TEXT_BYTES);
	cop_agent_put_string(buf, reply->name, COP_AGENT_NAME_BYTES);
	put_words(buf, names, COP_AGENT_FORKS_MAX, COP_AGENT_NAME_BYTES);
}
