/* SPDX-License-Identifier: MIT */
/*
 * exec-many.c: one command in many VMs: see exec-many.h.
 *
 * All on one thread and the default main context. A VM's session begins when there is a place for it.
 */
#include "cli/exec-many.h"
#include "cli/client.h"
#include "cli/exec.h"
#include "cli/failure.h"
#include "cli/output.h"
#include "cli/text.h"

#include <glib-unix.h>
#include <stdio.h>
#include <string.h>

#define MAX_AT_ONCE 32
#define MAX_LINE_BYTES 8192u
#define MAX_KEPT_BYTES (1024u * 1024)

struct cop_lines {
	void (*write)(const guint8 *line, gsize len, void *user);
	void *user;
	guint8 line[MAX_LINE_BYTES];
	gsize len;
};

struct cop_lines *cop_lines_new(void (*write)(const guint8 *, gsize, void *), void *user)
{
	struct cop_lines *lines = g_new0(struct cop_lines, 1);

	lines->write = write;
	lines->user = user;
	return lines;
}

void cop_lines_flush(struct cop_lines *lines)
{
	if (lines->len)
		lines->write(lines->line, lines->len, lines->user);
	lines->len = 0;
}

void cop_lines_feed(struct cop_lines *lines, const guint8 *data, gsize len)
{
	while (len) {
		const guint8 *newline = memchr(data, '\n', len);
		gsize n = newline ? (gsize)(newline - data) : len;
		gsize room = MAX_LINE_BYTES - lines->len;

		n = MIN(n, room);
		memcpy(lines->line + lines->len, data, n);
		lines->len += n;
		data += n;
		len -= n;
		if (len && *data == '\n') {
			lines->write(lines->line, lines->len, lines->user);
			lines->len = 0;
			data++;
			len--;
		} else if (lines->len == MAX_LINE_BYTES) {
			cop_lines_flush(lines);
		}
	}
}

void cop_lines_free(struct cop_lines *lines)
{
	g_free(lines);
}

struct one {
	struct many *many;
	const char *name;
	struct cop_exec *exec;
	struct cop_lines *lines[2]; /* of standard output and standard error */
	GByteArray *kept[2];	    /* with --json */
	gboolean truncated;
	int status;
	GError *error;
};

struct many {
	struct cop_cli *cli;
	JsonObject *request;
	struct one *ones;
	gsize nr, nr_begun, nr_active;
	gboolean output_failed, interrupted;
};

static void write_line(struct one *one, int fd, const guint8 *line, gsize len)
{
	g_autoptr(GByteArray) whole = g_byte_array_new();
	GByteArray *out = whole;

	/* One write a line: lines of different VMs never mix. */
	g_byte_array_append(out, (const guint8 *)one->name, (guint)strlen(one->name));
	g_byte_array_append(out, (const guint8 *)": ", 2);
	g_byte_array_append(out, line, (guint)len);
	g_byte_array_append(out, (const guint8 *)"\n", 1);
	if (!cop_exec_write(fd, out->data, out->len))
		one->many->output_failed = TRUE;
}

static void on_line(const guint8 *line, gsize len, void *user)
{
	write_line(user, 1, line, len);
}

static void on_error_line(const guint8 *line, gsize len, void *user)
{
	write_line(user, 2, line, len);
}

static gboolean on_output(int stream, const guint8 *data, gsize len, void *user)
{
	struct one *one = user;
	GByteArray *kept = one->kept[stream - 1];

	if (!one->many->cli->json) {
		cop_lines_feed(one->lines[stream - 1], data, len);
		return !one->many->output_failed;
	}
	g_byte_array_append(kept, data, (guint)len);
	if (kept->len > 2 * MAX_KEPT_BYTES) {
		g_byte_array_remove_range(kept, 0, kept->len - MAX_KEPT_BYTES);
		one->truncated = TRUE;
	}
	return TRUE;
}

static void begin(struct many *m, struct one *one)
{
	g_autofree char *path = cop_client_path("/v1/vms/", one->name, "/exec");
	struct cop_exec_wish wish = {
		.request = m->request, .in_fd = -1, .output = on_output, .user = one};
	SoupWebsocketConnection *ws;

	one->many = m;
	one->status = COP_EXEC_FAILED;
	for (int i = 0; i < 2; i++) {
		one->lines[i] = cop_lines_new(i ? on_error_line : on_line, one);
		one->kept[i] = g_byte_array_new();
	}
	/* Runs the main context: sessions that were begun before go on meanwhile. */
	ws = cop_client_websocket(m->cli->client, path, &one->error);
	if (!ws)
		return;
	one->exec = cop_exec_new(ws, &wish);
	m->nr_active++;
}

/* Sessions that have ended make place for others. */
static void collect(struct many *m)
{
	for (gsize i = 0; i < m->nr_begun; i++) {
		struct one *one = &m->ones[i];
		g_autofree char *clean = NULL;

		if (!one->exec || !cop_exec_done(one->exec))
			continue;
		one->status = cop_exec_status(one->exec, &one->error);
		g_clear_pointer(&one->exec, cop_exec_free);
		m->nr_active--;
		cop_lines_flush(one->lines[0]);
		cop_lines_flush(one->lines[1]);
		if (m->cli->json || one->error || !one->status)
			continue;
		clean = cop_text_clean(one->name);
		if (one->status > COP_EXEC_SIGNALLED)
			fprintf(stderr, "coppice: '%s': ended by signal %d\n", clean,
				one->status - COP_EXEC_SIGNALLED);
		else
			fprintf(stderr, "coppice: '%s': exit status %d\n", clean, one->status);
	}
}

static char *text_of(struct one *one, int i)
{
	guint skip = one->kept[i]->len > MAX_KEPT_BYTES ? one->kept[i]->len - MAX_KEPT_BYTES : 0;

	one->truncated = one->truncated || skip;
	return g_utf8_make_valid((char *)one->kept[i]->data + skip,
				 (gssize)(one->kept[i]->len - skip));
}

static JsonObject *to_json(struct one *one)
{
	JsonObject *object = json_object_new();
	g_autofree char *out = text_of(one, 0), *err = text_of(one, 1);

	json_object_set_string_member(object, "name", one->name);
	json_object_set_int_member(object, "status", one->status);
	json_object_set_string_member(object, "stdout", out);
	json_object_set_string_member(object, "stderr", err);
	json_object_set_boolean_member(object, "truncated", one->truncated);
	if (one->error)
		json_object_set_object_member(object, "error", cop_failure_to_json(one->error));
	else
		json_object_set_null_member(object, "error");
	return object;
}

static gboolean on_interrupt(gpointer user)
{
	struct many *m = user;

	for (gsize i = 0; i < m->nr_begun; i++) {
		if (m->ones[i].exec)
			cop_exec_signal(m->ones[i].exec, SIGINT);
	}
	if (m->interrupted)
		m->output_failed = TRUE; /* the second time: leave */
	m->interrupted = TRUE;
	return G_SOURCE_CONTINUE;
}

int cop_exec_many(struct cop_cli *cli, char *const *names, JsonObject *request, GError **error)
{
	struct many m = {.cli = cli, .request = request, .nr = g_strv_length((char **)names)};
	g_autofree struct one *ones = g_new0(struct one, m.nr + 1);
	g_autoptr(JsonObject) document = json_object_new();
	JsonArray *results = json_array_new();
	int status = COP_EXIT_OK;
	guint source;

	if (!cop_cli_client(cli, error)) {
		json_array_unref(results);
		return COP_EXEC_FAILED;
	}
	m.ones = ones;
	source = g_unix_signal_add(SIGINT, on_interrupt, &m);
	while (!m.output_failed &&
	       (m.nr_active || (m.nr_begun < m.nr && !m.interrupted))) {
		if (m.nr_begun < m.nr && m.nr_active < MAX_AT_ONCE && !m.interrupted) {
			ones[m.nr_begun].name = names[m.nr_begun];
			m.nr_begun++;
			begin(&m, &ones[m.nr_begun - 1]);
		} else {
			g_main_context_iteration(NULL, TRUE);
		}
		collect(&m);
	}
	g_source_remove(source);
	for (gsize i = 0; i < m.nr_begun; i++) {
		if (ones[i].error && !cli->json) {
			g_prefix_error(&ones[i].error, "'%s': ", ones[i].name);
			cop_failure_print(ones[i].error, "");
		}
		if (ones[i].error || ones[i].status)
			status = COP_EXIT_FAILED;
		if (cli->json)
			json_array_add_object_element(results, to_json(&ones[i]));
		g_clear_error(&ones[i].error);
		cop_exec_free(ones[i].exec);
		for (int k = 0; k < 2; k++) {
			cop_lines_free(ones[i].lines[k]);
			g_byte_array_unref(ones[i].kept[k]);
		}
	}
	json_object_set_array_member(document, "results", results);
	if (cli->json)
		cop_output_json(document);
	return m.interrupted || m.output_failed ? COP_EXIT_FAILED : status;
}
