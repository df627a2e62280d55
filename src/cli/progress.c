/* SPDX-License-Identifier: MIT */
/*
 * progress.c: a status line while waiting: see progress.h.
 *
 * Threads: one that draws, woken every TICK_MS or by the end. It alone writes the line and asks
 * the daemon. `lock` guards the counts and `ending`.
 */
#include "cli/progress.h"
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/text.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FIRST_MS 300
#define TICK_MS	 100
#define ASK_MS	 300

struct cop_progress {
	GThread *thread;
	GMutex lock;
	GCond wake;
	gboolean ending;
	unsigned nr_done, nr_expected;
	const char *unit;
	char *text, *dir;
	GHashTable *before; /* names of the VMs that existed at the start */
	gint64 begun_us;
};

static JsonObject *list(const char *dir)
{
	struct cop_client *client = cop_client_new(dir);
	JsonObject *answer = cop_client_call(client, "GET", "/v1/vms", NULL, NULL);

	cop_client_free(client);
	return answer;
}

/* Count the new VMs that run; with @remember, take all as old ones instead. */
static unsigned count(struct cop_progress *p, gboolean remember)
{
	g_autoptr(JsonObject) answer = list(p->dir);
	JsonArray *vms = cop_answer_array(answer, "vms");
	unsigned nr = 0;

	for (guint i = 0; i < cop_answer_length(vms); i++) {
		JsonObject *vm = cop_answer_element(vms, i);
		const char *name = cop_answer_string(vm, "name");
		const char *state = cop_answer_string(vm, "state");

		if (remember)
			g_hash_table_add(p->before, g_strdup(name));
		else if (!g_hash_table_contains(p->before, name) &&
			 (strcmp(state, "running") == 0 || strcmp(state, "paused") == 0))
			nr++;
	}
	return nr;
}

static void draw(struct cop_progress *p)
{
	g_autofree char *age = NULL, *line = NULL;
	unsigned nr_done, nr_expected;

	g_mutex_lock(&p->lock);
	nr_done = p->nr_done;
	nr_expected = p->nr_expected;
	g_mutex_unlock(&p->lock);
	age = cop_text_duration((double)(g_get_monotonic_time() - p->begun_us) / 1000);
	if (nr_expected > 1)
		line = g_strdup_printf("\r\033[K%s: %u/%u %s, %s", p->text,
				       MIN(nr_done, nr_expected), nr_expected, p->unit, age);
	else
		line = g_strdup_printf("\r\033[K%s: %s", p->text, age);
	(void)!write(2, line, strlen(line)); /* a lost status line hurts nobody */
}

static gpointer run(gpointer user)
{
	struct cop_progress *p = user;
	gint64 next_us = p->begun_us + FIRST_MS * 1000, ask_us = next_us;
	gboolean drawn = FALSE, ending = FALSE;

	for (;;) {
		g_mutex_lock(&p->lock);
		while (!p->ending && g_cond_wait_until(&p->wake, &p->lock, next_us))
			; /* woken for nothing */
		ending = p->ending;
		g_mutex_unlock(&p->lock);
		if (ending)
			break;
		if (p->dir && g_get_monotonic_time() >= ask_us) {
			cop_progress_set(p, count(p, FALSE), p->nr_expected);
			ask_us = g_get_monotonic_time() + ASK_MS * 1000;
		}
		draw(p);
		drawn = TRUE;
		next_us = g_get_monotonic_time() + TICK_MS * 1000;
	}
	if (drawn)
		(void)!write(2, "\r\033[K", 4); /* as above */
	return NULL;
}

struct cop_progress *cop_progress_begin(const char *text, const char *dir, unsigned nr_expected)
{
	struct cop_progress *p;

	if (!isatty(2) || g_strcmp0(g_getenv("TERM"), "dumb") == 0)
		return NULL;
	p = g_new0(struct cop_progress, 1);
	g_mutex_init(&p->lock);
	g_cond_init(&p->wake);
	p->text = cop_text_clean(text);
	p->dir = g_strdup(dir);
	p->unit = dir ? "running" : "done";
	p->nr_expected = nr_expected;
	p->before = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
	if (dir)
		(void)count(p, TRUE);
	p->begun_us = g_get_monotonic_time();
	p->thread = g_thread_new("progress", run, p);
	return p;
}

void cop_progress_set(struct cop_progress *p, unsigned nr_done, unsigned nr_expected)
{
	if (!p)
		return;
	g_mutex_lock(&p->lock);
	p->nr_done = nr_done;
	p->nr_expected = nr_expected;
	g_mutex_unlock(&p->lock);
}

void cop_progress_end(struct cop_progress *p)
{
	if (!p)
		return;
	g_mutex_lock(&p->lock);
	p->ending = TRUE;
	g_cond_signal(&p->wake);
	g_mutex_unlock(&p->lock);
	g_thread_join(p->thread);
	g_mutex_clear(&p->lock);
	g_cond_clear(&p->wake);
	g_hash_table_unref(p->before);
	g_free(p->text);
	g_free(p->dir);
	g_free(p);
}
