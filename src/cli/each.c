/* SPDX-License-Identifier: MIT */
/*
 * each.c: one request to each of several VMs or templates: see each.h.
 *
 * Threads: up to MAX_THREADS workers, each with a client of its own for each request. `lock` guards
 * the count, the results and the output.
 */
#include "cli/each.h"
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"

#include <string.h>

#define MAX_THREADS 16

struct one {
	const char *name;
	JsonObject *answer;
	GError *error;
};

struct work {
	struct cop_cli *cli;
	const struct cop_each *each;
	struct cop_progress *progress;
	GMutex lock;
	unsigned nr_done, nr_all;
};

static void worker(gpointer item, gpointer user)
{
	struct one *one = item;
	struct work *work = user;
	const struct cop_each *each = work->each;
	g_autofree char *path = cop_client_path(each->before, one->name, each->after);
	struct cop_client *client = cop_client_new(work->cli->dir);

	one->answer = cop_client_call(client, each->method, path, each->body, &one->error);
	cop_client_free(client);
	g_mutex_lock(&work->lock);
	cop_progress_set(work->progress, ++work->nr_done, work->nr_all);
	g_mutex_unlock(&work->lock);
}

static void print_json(const struct cop_each *each, const struct one *ones, size_t nr)
{
	g_autoptr(JsonObject) document = json_object_new();
	JsonArray *good = json_array_new(), *bad = json_array_new();
	gboolean names_only = strcmp(each->method, "DELETE") == 0;

	for (size_t i = 0; i < nr; i++) {
		if (ones[i].error) {
			JsonObject *failure = cop_failure_to_json(ones[i].error);

			json_object_set_string_member(failure, "name", ones[i].name);
			json_array_add_object_element(bad, failure);
		} else if (names_only) {
			json_array_add_string_element(good, ones[i].name);
		} else {
			json_array_add_object_element(good, json_object_ref(ones[i].answer));
		}
	}
	json_object_set_array_member(document, each->result, good);
	json_object_set_array_member(document, "errors", bad);
	cop_output_json(document);
}

int cop_each_run(struct cop_cli *cli, const struct cop_each *each, char *const *names,
		 GError **error)
{
	size_t nr = g_strv_length((char **)names);
	g_autofree struct one *ones = g_new0(struct one, nr + 1);
	struct work work = {.cli = cli, .each = each, .nr_all = (unsigned)nr};
	g_autofree char *text = NULL;
	GThreadPool *pool;
	int status = COP_EXIT_OK;

	if (!cop_cli_client(cli, error))
		return COP_EXIT_FAILED;
	text = g_strdup_printf("%s %s", each->doing, nr == 1 ? names[0] : "all");
	g_mutex_init(&work.lock);
	work.progress = cop_progress_begin(text, NULL, (unsigned)nr);
	pool = g_thread_pool_new(worker, &work, MAX_THREADS, FALSE, NULL);
	for (size_t i = 0; i < nr; i++) {
		ones[i].name = names[i];
		g_thread_pool_push(pool, &ones[i], NULL);
	}
	g_thread_pool_free(pool, FALSE, TRUE);
	cop_progress_end(work.progress);
	g_mutex_clear(&work.lock);
	for (size_t i = 0; i < nr; i++) {
		if (ones[i].error) {
			status = COP_EXIT_FAILED;
			cop_failure_print(ones[i].error, "");
		} else if (!cli->json) {
			cop_output_line("%s '%s'\n", each->done, ones[i].name);
		}
	}
	if (cli->json)
		print_json(each, ones, nr);
	for (size_t i = 0; i < nr; i++) {
		g_clear_error(&ones[i].error);
		g_clear_pointer(&ones[i].answer, json_object_unref);
	}
	return status;
}

static char **all_vms(struct cop_cli *cli, const char *const *states, GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	g_autoptr(JsonObject) answer =
		client ? cop_client_call(client, "GET", "/v1/vms", NULL, error) : NULL;
	JsonArray *vms = cop_answer_array(answer, "vms");
	g_autoptr(GStrvBuilder) names = g_strv_builder_new();

	if (!answer)
		return NULL;
	for (guint i = 0; i < cop_answer_length(vms); i++) {
		JsonObject *vm = cop_answer_element(vms, i);

		if (!states || g_strv_contains(states, cop_answer_string(vm, "state")))
			g_strv_builder_add(names, cop_answer_string(vm, "name"));
	}
	return g_strv_builder_end(names);
}

char **cop_each_vms(struct cop_cli *cli, const char *command, char *const *names, gboolean all,
		    const char *const *states, GError **error)
{
	if (all && names[0])
		cop_failure_usage(error, "%s: names and --all exclude each other", command);
	else if (all)
		return all_vms(cli, states, error);
	else if (!names[0])
		cop_failure_usage(error, "%s: too few arguments, needs VM... or --all", command);
	else if (cop_options_names("VM", names, error))
		return g_strdupv((char **)names);
	return NULL;
}
