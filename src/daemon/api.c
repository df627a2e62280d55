/* The HTTP/JSON API: see api.h.
 *
 * A request is matched against one table of routes on the main loop's thread, run on a worker, and
 * answered on the main loop's thread. A request body has at most MAX_BODY_BYTES; at most MAX_WORKERS
 * requests run at once, others wait.
 */
#include "api.h"
#include "bridge.h"
#include "console.h"
#include "gerror.h"
#include "doctor.h"
#include "json.h"
#include "metrics.h"
#include "ops.h"
#include "stats.h"
#include "template.h"
#include "vm.h"

#include <gio/gio.h>
#include <libsoup/soup.h>
#include <string.h>
#include <unistd.h>

#define MAX_BODY_BYTES (1024 * 1024)
#define MAX_WORKERS 32

struct cop_api {
	struct cop_state *state;
	SoupServer *server;
	GThreadPool *workers;
	gint busy;
};

/* One request on its way. */
struct job {
	struct cop_api *api;
	SoupServerMessage *msg;
	const struct route *route;
	char *name; /* the {name} part of the path, or NULL */
	JsonObject *body;
	gboolean flag; /* the route's one query parameter */
	unsigned status;
	char *content_type;
	GBytes *answer;
};

/* Runs on a worker. Returns the answer's object (owned), or NULL: with error, or for an answer
 * without JSON (job->answer set, or 204). */
typedef JsonObject *(*handler_fn)(struct job *job, GError **error);

struct route {
	const char *method, *path; /* "*" stands for a name */
	unsigned status;
	handler_fn handler;
	const char *query; /* allowed boolean parameter, or NULL */
};

static JsonObject *get_version(struct job *job, GError **error)
{
	JsonObject *obj = json_object_new();

	json_object_set_string_member(obj, "name", "coppiced");
	json_object_set_string_member(obj, "version", COPPICE_VERSION);
	json_object_set_int_member(obj, "api", 1);
	json_object_set_int_member(obj, "pid", getpid());
	json_object_set_string_member(obj, "dir", job->api->state->config->dir);
	return obj;
}

static JsonObject *get_openapi(struct job *job, GError **error)
{
	job->answer = g_resources_lookup_data("/coppice/openapi.json", G_RESOURCE_LOOKUP_FLAGS_NONE,
					      error);
	return NULL;
}

static JsonObject *get_doctor(struct job *job, GError **error)
{
	return cop_doctor(job->api->state);
}

static JsonObject *get_stats(struct job *job, GError **error)
{
	return cop_stats(job->api->state);
}

static JsonObject *get_metrics(struct job *job, GError **error)
{
	g_autoptr(JsonObject) stats = cop_stats(job->api->state);
	char *text = cop_metrics_text(stats);

	job->answer = g_bytes_new_take(text, strlen(text));
	job->content_type = g_strdup("text/plain; version=0.0.4");
	return NULL;
}

static JsonObject *list_vms(struct job *job, GError **error)
{
	struct cop_state *state = job->api->state;
	g_autoptr(GPtrArray) vms = NULL;
	JsonObject *obj = json_object_new();
	JsonArray *arr = json_array_new();

	g_mutex_lock(&state->lock);
	vms = cop_state_all_vms(state);
	g_mutex_unlock(&state->lock);
	for (guint i = 0; i < vms->len; i++)
		json_array_add_object_element(arr, cop_vm_to_json(vms->pdata[i], job->flag));
	json_object_set_array_member(obj, "vms", arr);
	return obj;
}

static JsonObject *get_vm(struct job *job, GError **error)
{
	struct cop_vm *vm = cop_state_find_vm(job->api->state, job->name, error);
	JsonObject *obj = vm ? cop_vm_to_json(vm, TRUE) : NULL;

	cop_vm_unref(vm);
	return obj;
}

static JsonObject *post_run(struct job *job, GError **error)
{
	return cop_op_run(job->api->state, job->body, error);
}

static JsonObject *delete_vm(struct job *job, GError **error)
{
	(void)cop_op_remove(job->api->state, job->name, job->flag, error); /* error says all */
	return NULL;
}

static JsonObject *post_freeze(struct job *job, GError **error)
{
	return cop_op_freeze(job->api->state, job->name, job->body, error);
}

static JsonObject *post_fork(struct job *job, GError **error)
{
	return cop_op_fork(job->api->state, job->name, job->body, error);
}

static JsonObject *post_pause(struct job *job, GError **error)
{
	return cop_op_pause(job->api->state, job->name, error);
}

static JsonObject *post_resume(struct job *job, GError **error)
{
	return cop_op_resume(job->api->state, job->name, error);
}

static JsonObject *post_stop(struct job *job, GError **error)
{
	return cop_op_stop(job->api->state, job->name, job->body, error);
}

static JsonObject *post_start(struct job *job, GError **error)
{
	return cop_op_start(job->api->state, job->name, error);
}

static JsonObject *post_evict(struct job *job, GError **error)
{
	return cop_op_evict(job->api->state, job->name, job->body, error);
}

static JsonObject *get_screenshot(struct job *job, GError **error)
{
	job->answer = cop_op_screenshot(job->api->state, job->name, error);
	job->content_type = g_strdup("image/png");
	return NULL;
}

static int by_template_name(gconstpointer a, gconstpointer b)
{
	const struct cop_template *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static JsonObject *list_templates(struct job *job, GError **error)
{
	struct cop_state *state = job->api->state;
	g_autoptr(GPtrArray) tpls =
		g_ptr_array_new_with_free_func((GDestroyNotify)cop_template_unref);
	JsonObject *obj = json_object_new();
	JsonArray *arr = json_array_new();
	GHashTableIter iter;
	struct cop_template *tpl;

	g_mutex_lock(&state->lock);
	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->ready)
			g_ptr_array_add(tpls, cop_template_ref(tpl));
	}
	g_mutex_unlock(&state->lock);
	g_ptr_array_sort(tpls, by_template_name);
	for (guint i = 0; i < tpls->len; i++)
		json_array_add_object_element(arr, cop_template_to_json(state, tpls->pdata[i]));
	json_object_set_array_member(obj, "templates", arr);
	return obj;
}

static JsonObject *get_template(struct job *job, GError **error)
{
	struct cop_template *tpl = cop_state_find_template(job->api->state, job->name, error);
	JsonObject *obj;

	if (!tpl)
		return NULL;
	obj = json_object_new();
	json_object_set_object_member(obj, "template", cop_template_to_json(job->api->state, tpl));
	json_object_set_object_member(obj, "machine", cop_machine_to_json(tpl->machine));
	if (job->flag) {
		JsonArray *report = json_array_new();

		(void)cop_template_check(job->api->state, tpl, TRUE, report, NULL); /* in report */
		json_object_set_array_member(obj, "checks", report);
	}
	cop_template_unref(tpl);
	return obj;
}

static JsonObject *delete_template(struct job *job, GError **error)
{
	(void)cop_template_remove(job->api->state, job->name, error); /* error says all */
	return NULL;
}

static JsonObject *post_clone(struct job *job, GError **error)
{
	return cop_op_clone(job->api->state, job->name, job->body, error);
}

static const struct route routes[] = {
	{"GET", "/v1/version", 200, get_version, NULL},
	{"GET", "/v1/openapi.json", 200, get_openapi, NULL},
	{"GET", "/v1/doctor", 200, get_doctor, NULL},
	{"GET", "/v1/stats", 200, get_stats, NULL},
	{"GET", "/metrics", 200, get_metrics, NULL},
	{"GET", "/v1/vms", 200, list_vms, "memory"},
	{"POST", "/v1/vms", 201, post_run, NULL},
	{"GET", "/v1/vms/*", 200, get_vm, NULL},
	{"DELETE", "/v1/vms/*", 204, delete_vm, "force"},
	{"POST", "/v1/vms/*/freeze", 201, post_freeze, NULL},
	{"POST", "/v1/vms/*/fork", 201, post_fork, NULL},
	{"POST", "/v1/vms/*/pause", 200, post_pause, NULL},
	{"POST", "/v1/vms/*/resume", 200, post_resume, NULL},
	{"POST", "/v1/vms/*/stop", 200, post_stop, NULL},
	{"POST", "/v1/vms/*/start", 200, post_start, NULL},
	{"POST", "/v1/vms/*/evict", 200, post_evict, NULL},
	{"GET", "/v1/vms/*/screenshot", 200, get_screenshot, NULL},
	{"GET", "/v1/templates", 200, list_templates, NULL},
	{"GET", "/v1/templates/*", 200, get_template, "verify"},
	{"DELETE", "/v1/templates/*", 204, delete_template, NULL},
	{"POST", "/v1/templates/*/clone", 201, post_clone, NULL},
};

/* Does path fit the pattern? *ret_name receives the part that "*" stands for. */
static gboolean match(const char *pattern, const char *path, char **ret_name)
{
	const char *star = strchr(pattern, '*'), *end;
	size_t before;

	if (!star)
		return strcmp(pattern, path) == 0;
	before = (size_t)(star - pattern);
	if (strncmp(pattern, path, before) != 0)
		return FALSE;
	end = path + before + strcspn(path + before, "/");
	if (end == path + before || strcmp(end, star + 1) != 0)
		return FALSE;
	*ret_name = g_strndup(path + before, (gsize)(end - path) - before);
	return TRUE;
}

static GBytes *error_bytes(const GError *error)
{
	g_autoptr(JsonObject) obj = json_object_new();
	JsonObject *inner = json_object_new();
	g_autofree char *message = cop_gerror_message(error), *hint = cop_gerror_hint(error);
	char *text;

	json_object_set_string_member(inner, "code", cop_gerror_word(error));
	json_object_set_string_member(inner, "message", message);
	json_object_set_string_member(inner, "hint", hint);
	json_object_set_object_member(obj, "error", inner);
	text = cop_json_print(obj, FALSE);
	return g_bytes_new_take(text, strlen(text));
}

static void answer(SoupServerMessage *msg, unsigned status, const char *type, GBytes *body)
{
	soup_server_message_set_status(msg, status, NULL);
	if (body) {
		SoupMessageBody *out = soup_server_message_get_response_body(msg);
		SoupMessageHeaders *headers = soup_server_message_get_response_headers(msg);

		soup_message_headers_set_content_type(headers, type, NULL);
		soup_message_body_append_bytes(out, body);
	}
}

static void answer_error(SoupServerMessage *msg, GError *error)
{
	g_autoptr(GBytes) body = error_bytes(error);

	answer(msg, cop_gerror_http_status(error), "application/json", body);
	g_error_free(error);
}

static void job_free(struct job *job)
{
	g_object_unref(job->msg);
	g_free(job->name);
	g_free(job->content_type);
	if (job->body)
		json_object_unref(job->body);
	if (job->answer)
		g_bytes_unref(job->answer);
	g_free(job);
}

/* Main loop's thread. */
static gboolean finish(gpointer user)
{
	struct job *job = user;

	g_atomic_int_add(&job->api->busy, -1);
	answer(job->msg, job->status, job->content_type ?: "application/json", job->answer);
	soup_server_message_unpause(job->msg);
	job_free(job);
	return G_SOURCE_REMOVE;
}

/* A worker. */
static void work(gpointer item, gpointer user)
{
	struct job *job = item;
	GError *error = NULL;
	JsonObject *obj = job->route->handler(job, &error);

	job->status = job->route->status;
	if (error) {
		g_info("%s %s: %s", job->route->method, job->route->path, error->message);
		job->status = cop_gerror_http_status(error);
		g_clear_pointer(&job->content_type, g_free);
		job->answer = error_bytes(error);
		g_error_free(error);
	} else if (obj) {
		char *text = cop_json_print(obj, FALSE);

		job->answer = g_bytes_new_take(text, strlen(text));
	}
	if (obj)
		json_object_unref(obj);
	g_main_context_invoke(NULL, finish, job);
}

static gboolean read_body(struct job *job, GError **error)
{
	SoupMessageBody *body = soup_server_message_get_request_body(job->msg);
	g_autoptr(GBytes) bytes = soup_message_body_flatten(body);
	gsize len;
	const char *text = g_bytes_get_data(bytes, &len);

	if (len == 0) {
		job->body = json_object_new();
		return TRUE;
	}
	job->body = cop_json_parse(text, (gssize)len, error);
	return job->body != NULL;
}

static gboolean read_query(struct job *job, GHashTable *query, GError **error)
{
	GHashTableIter iter;
	char *key, *value;

	if (!query)
		return TRUE;
	g_hash_table_iter_init(&iter, query);
	while (g_hash_table_iter_next(&iter, (void **)&key, (void **)&value)) {
		if (g_strcmp0(key, job->route->query) != 0)
			return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
					      "unknown parameter '%s'", key);
		if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
			return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
					      "'%s' must be true or false", key);
		job->flag = strcmp(value, "true") == 0;
	}
	return TRUE;
}

/* Too large a body is refused while it arrives. */
static void on_got_chunk(SoupServerMessage *msg, GBytes *chunk, gpointer user)
{
	SoupMessageBody *body = soup_server_message_get_request_body(msg);

	if (body->length > MAX_BODY_BYTES)
		g_socket_shutdown(soup_server_message_get_socket(msg), TRUE, TRUE, NULL);
}

static void on_started(SoupServer *server, SoupServerMessage *msg, gpointer user)
{
	g_signal_connect(msg, "got-chunk", G_CALLBACK(on_got_chunk), NULL);
}

/* WebSockets: /v1/vms/NAME/console and /v1/vms/NAME/vnc. */
static void serve_websocket(struct cop_api *api, const char *path, SoupWebsocketConnection *ws)
{
	g_autofree char *console_of = NULL, *vnc_of = NULL;
	struct cop_console *console = NULL;
	struct cop_vm *vm = NULL;

	if (match("/v1/vms/*/console", path, &console_of))
		vm = cop_state_find_vm(api->state, console_of, NULL);
	else if (match("/v1/vms/*/vnc", path, &vnc_of))
		vm = cop_state_find_vm(api->state, vnc_of, NULL);
	if (vm && console_of) {
		g_mutex_lock(&api->state->lock);
		console = vm->console ? cop_console_ref(vm->console) : NULL;
		g_mutex_unlock(&api->state->lock);
	}
	if (console)
		cop_console_add(console, ws);
	else if (vm && vnc_of)
		cop_bridge_vnc_websocket(vm, ws);
	else
		soup_websocket_connection_close(ws, SOUP_WEBSOCKET_CLOSE_GOING_AWAY,
						"the VM has ended");
	cop_console_unref(console);
	cop_vm_unref(vm);
}

/* The handshake's answer is out: the connection is a WebSocket from here on. */
static void on_upgraded(SoupServerMessage *msg, gpointer user)
{
	g_autoptr(GIOStream) stream = soup_server_message_steal_connection(msg);
	GUri *uri = soup_server_message_get_uri(msg);
	g_autoptr(SoupWebsocketConnection) ws = soup_websocket_connection_new(
		stream, uri, SOUP_WEBSOCKET_CONNECTION_SERVER, NULL, NULL, NULL);

	serve_websocket(user, g_uri_get_path(uri), ws);
}

/* A request for a WebSocket is refused like any other when its VM can't serve it. */
static gboolean upgrade(struct cop_api *api, SoupServerMessage *msg, const char *name,
			gboolean need_vga, GError **error)
{
	struct cop_vm *vm = cop_state_find_vm(api->state, name, error);
	gboolean alive, vga;

	if (!vm)
		return FALSE;
	g_mutex_lock(&api->state->lock);
	alive = vm->pid != 0 && vm->console;
	vga = vm->vnc_fd >= 0;
	g_mutex_unlock(&api->state->lock);
	cop_vm_unref(vm);
	if (!alive)
		return cop_gerror_set(error, COP_ERR_WRONG_STATE, "VM '%s' is not running\n"
				      "'coppice start %s' boots it", name, name);
	if (need_vga && !vga)
		return cop_gerror_set(error, COP_ERR_WRONG_STATE,
				      "VM '%s' has no display\nrun it with --display vga", name);
	if (!soup_websocket_server_check_handshake(msg, NULL, NULL, NULL, NULL))
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
				      "this path needs a WebSocket handshake");
	if (soup_websocket_server_process_handshake(msg, NULL, NULL, NULL, NULL))
		g_signal_connect(msg, "wrote-informational", G_CALLBACK(on_upgraded), api);
	return TRUE;
}

static void on_request(SoupServer *server, SoupServerMessage *msg, const char *path,
		       GHashTable *query, gpointer user)
{
	struct cop_api *api = user;
	const char *method = soup_server_message_get_method(msg);
	gboolean path_known = FALSE;
	GError *error = NULL;
	struct job *job;
	g_autofree char *console_of = NULL, *vnc_of = NULL;

	api->state->active_us = g_get_monotonic_time();
	if (strcmp(method, "GET") == 0 && (match("/v1/vms/*/console", path, &console_of) ||
					   match("/v1/vms/*/vnc", path, &vnc_of))) {
		if (!upgrade(api, msg, console_of ?: vnc_of, vnc_of != NULL, &error))
			answer_error(msg, error);
		return;
	}
	for (size_t i = 0; i < G_N_ELEMENTS(routes); i++) {
		g_autofree char *name = NULL;

		if (!match(routes[i].path, path, &name))
			continue;
		path_known = TRUE;
		if (strcmp(routes[i].method, method) != 0)
			continue;
		job = g_new0(struct job, 1);
		job->api = api;
		job->msg = g_object_ref(msg);
		job->route = &routes[i];
		job->name = g_steal_pointer(&name);
		if (!read_query(job, query, &error) || !read_body(job, &error)) {
			answer_error(msg, error);
			job_free(job);
			return;
		}
		g_atomic_int_inc(&api->busy);
		soup_server_message_pause(msg);
		g_thread_pool_push(api->workers, job, NULL);
		return;
	}
	cop_gerror_set(&error, path_known ? COP_ERR_BAD_REQUEST : COP_ERR_NOT_FOUND,
		       path_known ? "%s does not work on %s\nsee /v1/openapi.json"
				  : "%s %s is not part of the API\nsee /v1/openapi.json",
		       method, path);
	answer_error(msg, error);
}

struct cop_api *cop_api_new(struct cop_state *state, int listen_fd, GError **error)
{
	struct cop_api *api = g_new0(struct cop_api, 1);
	g_autoptr(GSocket) socket = g_socket_new_from_fd(listen_fd, error);

	api->state = state;
	api->server = soup_server_new("server-header", "coppiced", NULL);
	api->workers = g_thread_pool_new(work, api, MAX_WORKERS, FALSE, NULL);
	soup_server_add_handler(api->server, NULL, on_request, api, NULL);
	g_signal_connect(api->server, "request-started", G_CALLBACK(on_started), api);
	if (!socket || !soup_server_listen_socket(api->server, socket, 0, error)) {
		cop_api_free(api);
		return NULL;
	}
	return api;
}

unsigned cop_api_busy(struct cop_api *api)
{
	return (unsigned)g_atomic_int_get(&api->busy);
}

void cop_api_free(struct cop_api *api)
{
	if (!api)
		return;
	soup_server_disconnect(api->server);
	g_thread_pool_free(api->workers, FALSE, TRUE);
	g_object_unref(api->server);
	g_free(api);
}
