/* SPDX-License-Identifier: MIT */
/*
 * cmd-cp.c: coppice cp: files and folders into a VM and out of it, as tar archives through exec.
 *
 * What comes out of a VM is a guest's: it is unpacked into a closed folder beside the destination,
 * by tar, which keeps to that folder; owners, special bits, devices and pipes are left out; then it
 * is renamed to its place.
 */
#include "cli/answer.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exec.h"
#include "cli/failure.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/text.h"

#include <errno.h>
#include <ftw.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_SAID_BYTES 1024

/* In the guest: $1 is the destination, $2 the archive's one top entry. */
static const char unpack_script[] =
	"set -e; dst=$1 name=$2\n"
	"if [ -d \"$dst\" ]; then dir=$dst; final=$name\n"
	"else case $dst in */) echo \"$dst is not a folder\" >&2; exit 1;; esac\n"
	"dir=$(dirname \"$dst\"); final=$(basename \"$dst\"); fi\n"
	"[ -d \"$dir\" ] || { echo \"there is no folder $dir\" >&2; exit 1; }\n"
	"tmp=$(mktemp -d \"$dir/.coppice-cp.XXXXXX\"); trap 'rm -rf \"$tmp\"' EXIT\n"
	"tar -x -f - -C \"$tmp\"\n"
	"if [ -d \"$dir/$final\" ] && [ -d \"$tmp/$name\" ] && [ ! -L \"$tmp/$name\" ]\n"
	"then cp -a \"$tmp/$name/.\" \"$dir/$final/\"\n"
	"else mv -f \"$tmp/$name\" \"$dir/$final\"; fi\n";

struct copy {
	GByteArray *said; /* by the guest, on standard error */
	int out_fd;	  /* tar's input, or -1 */
};

static gboolean on_output(int stream, const guint8 *data, gsize len, void *user)
{
	struct copy *copy = user;

	if (stream == 1)
		return copy->out_fd < 0 || cop_exec_write(copy->out_fd, data, len);
	if (copy->said->len < MAX_SAID_BYTES)
		g_byte_array_append(copy->said, data, (guint)MIN(len, MAX_SAID_BYTES));
	return TRUE;
}

/* "VM:PATH" taken apart; FALSE when text is none. */
static gboolean split(const char *text, char **ret_vm, const char **ret_path)
{
	const char *colon = strchr(text, ':');
	g_autofree char *vm = colon ? g_strndup(text, (gsize)(colon - text)) : NULL;

	if (!vm || !cop_text_is_name(vm))
		return FALSE;
	*ret_vm = g_steal_pointer(&vm);
	*ret_path = colon + 1;
	return TRUE;
}

/* Runs argv in the VM with these ends; the exit status must be 0. */
static gboolean exec(struct cop_cli *cli, const char *vm, const char *const *argv, int in_fd,
		     int out_fd, GError **error)
{
	struct cop_client *client = cop_cli_client(cli, error);
	g_autoptr(JsonObject) request = json_object_new();
	g_autofree char *path = cop_client_path("/v1/vms/", vm, "/exec");
	struct copy copy = {.out_fd = out_fd};
	struct cop_exec_wish wish = {
		.request = request, .in_fd = in_fd, .output = on_output, .user = &copy};
	JsonArray *words = json_array_new();
	SoupWebsocketConnection *ws = NULL;
	struct cop_exec *session;
	int status;

	for (; *argv; argv++)
		json_array_add_string_element(words, *argv);
	json_object_set_array_member(request, "argv", words);
	if (client)
		ws = cop_client_websocket(client, path, error);
	if (!ws)
		return FALSE;
	copy.said = g_byte_array_new();
	session = cop_exec_new(ws, &wish);
	while (!cop_exec_done(session))
		g_main_context_iteration(NULL, TRUE);
	status = cop_exec_status(session, error);
	cop_exec_free(session);
	if (status && error && !*error) {
		g_autofree char *said = g_strndup((char *)copy.said->data, copy.said->len);
		g_autofree char *clean = cop_text_clean(g_strchomp(said));

		cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "%s", *clean ? clean : "tar failed in the VM");
	}
	g_byte_array_unref(copy.said);
	return status == 0;
}

/* A tar on this side. What it says is kept: it counts only when the other side was well. */
struct tar {
	GPid pid;
	int said_fd; /* in memory */
};

/* Signals end tar with this program, as it is in the same group; the pipe's end tells it, too. */
static gboolean start_tar(char **argv, struct tar *tar, int *ret_in, int *ret_out, GError **error)
{
	const char *const *words = (const char *const *)argv;
	g_autoptr(GError) why = NULL;

	tar->said_fd = memfd_create("tar", MFD_CLOEXEC);
	if (tar->said_fd >= 0 &&
	    g_spawn_async_with_pipes_and_fds(
		    NULL, words, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
		    -1, -1, tar->said_fd, NULL, NULL, 0, &tar->pid, ret_in, ret_out, NULL, &why))
		return TRUE;
	cop_failure_set(error, COP_FAILURE_INTERNAL, "install tar", "cannot run tar: %s",
			why ? why->message : g_strerror(errno));
	if (tar->said_fd >= 0)
		close(tar->said_fd);
	return FALSE;
}

/* well: the other side was. */
static gboolean end_tar(struct tar *tar, gboolean well, GError **error)
{
	char said[4096];
	int status = 0;
	ssize_t n;

	while (waitpid(tar->pid, &status, 0) < 0 && errno == EINTR)
		;
	g_spawn_close_pid(tar->pid);
	n = well ? pread(tar->said_fd, said, sizeof(said), 0) : 0;
	close(tar->said_fd);
	if (n > 0) {
		g_autofree char *text = g_strndup(said, (gsize)n);
		g_autofree char *clean = cop_text_clean(g_strchomp(text));

		fprintf(stderr, "%s\n", clean);
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return well;
	return well ? cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "tar failed on this side")
		    : FALSE;
}

/* The last part of a path that can be a name of its own; NULL with a usage error. */
static char *name_of(const char *path, GError **error)
{
	g_autofree char *name = g_path_get_basename(path);

	if (*path && strcmp(name, "/") != 0 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
		return g_steal_pointer(&name);
	cop_failure_usage(error, "cp: '%s' has no name to copy it under", path);
	return NULL;
}

static gboolean copy_in(struct cop_cli *cli, const char *src, const char *vm, const char *dst,
			GError **error)
{
	g_autofree char *name = name_of(src, error);
	g_autofree char *folder = g_path_get_dirname(src);
	g_autofree char *whole = name ? g_build_filename(folder, name, NULL) : NULL;
	char *words[] = {"tar", "-c", "-f", "-", "-C", folder, "--", name, NULL};
	const char *unpack[] = {"sh", "-c", unpack_script, "cp", *dst ? dst : ".", name, NULL};
	struct stat st;
	int out_fd = -1;
	struct tar tar;
	gboolean ok;

	if (!name)
		return FALSE;
	if (lstat(whole, &st) < 0)
		return cop_failure_set(error, COP_FAILURE_NOT_FOUND, NULL, "cannot read %s: %s",
				       src, g_strerror(errno));
	if (!g_utf8_validate(name, -1, NULL) || !g_utf8_validate(dst, -1, NULL))
		return cop_failure_usage(error, "cp: a name that is not UTF-8");
	if (!start_tar(words, &tar, NULL, &out_fd, error))
		return FALSE;
	ok = exec(cli, vm, unpack, out_fd, -1, error);
	close(out_fd);
	return end_tar(&tar, ok, error);
}

static unsigned nr_left_out; /* nftw() hands on no user data */

static int tame(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	if (S_ISREG(st->st_mode))
		return chmod(path, st->st_mode & 0777);
	if (S_ISDIR(st->st_mode) || S_ISLNK(st->st_mode))
		return 0;
	nr_left_out++;
	return unlink(path);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	return remove(path);
}

static gboolean place(const char *from, const char *to, GError **error)
{
	struct stat a, b;

	if (lstat(from, &a) < 0)
		return cop_failure_set(error, COP_FAILURE_INTERNAL, NULL,
				       "the VM sent something else than what was asked for");
	if (S_ISDIR(a.st_mode) && stat(to, &b) == 0 && S_ISDIR(b.st_mode)) {
		char *argv[] = {"cp", "-a", "-T", "--", (char *)from, (char *)to, NULL};
		g_autoptr(GError) why = NULL;
		int status = 0;

		if (g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
				 &status, &why) &&
		    g_spawn_check_wait_status(status, &why))
			return TRUE;
		return cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot write %s: %s",
				       to, why->message);
	}
	if (rename(from, to) < 0)
		return cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot write %s: %s",
				       to, g_strerror(errno));
	return TRUE;
}

static gboolean unpack(struct cop_cli *cli, const char *vm, const char *const *pack,
		       const char *folder, GError **error)
{
	char *words[] = {"tar", "-x", "-f", "-", "-C", (char *)folder, "--no-same-owner",
			 "--no-same-permissions", NULL};
	int in_fd = -1;
	struct tar tar;
	gboolean ok;

	if (!start_tar(words, &tar, &in_fd, NULL, error))
		return FALSE;
	ok = exec(cli, vm, pack, -1, in_fd, error);
	close(in_fd);
	return end_tar(&tar, ok, error);
}

static gboolean copy_out(struct cop_cli *cli, const char *vm, const char *src, const char *dst,
			 GError **error)
{
	g_autofree char *name = name_of(src, error);
	g_autofree char *src_folder = g_path_get_dirname(src);
	const char *pack[] = {"tar", "-c", "-f", "-", "-C", src_folder, "--", name, NULL};
	gboolean into = g_file_test(dst, G_FILE_TEST_IS_DIR);
	g_autofree char *folder = into ? g_strdup(dst) : g_path_get_dirname(dst);
	g_autofree char *final_name = into || !name ? g_strdup(name) : g_path_get_basename(dst);
	g_autofree char *temporary = g_build_filename(folder, ".coppice-cp-XXXXXX", NULL);
	g_autofree char *from = NULL, *to = NULL;
	gboolean ok;

	if (!name)
		return FALSE;
	if (!into && g_str_has_suffix(dst, "/"))
		return cop_failure_set(error, COP_FAILURE_NOT_FOUND, NULL, "%s is not a folder",
				       dst);
	if (!g_mkdtemp_full(temporary, 0700))
		return cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot write to %s: %s",
				       folder, g_strerror(errno));
	from = g_build_filename(temporary, name, NULL);
	to = g_build_filename(folder, final_name, NULL);
	ok = unpack(cli, vm, pack, temporary, error);
	nr_left_out = 0;
	if (ok && nftw(temporary, tame, 16, FTW_PHYS) != 0)
		ok = cop_failure_set(error, COP_FAILURE_INTERNAL, NULL, "cannot write to %s: %s",
				     folder, g_strerror(errno));
	ok = ok && place(from, to, error);
	(void)nftw(temporary, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* it may stay; no harm */
	if (ok && nr_left_out)
		fprintf(stderr, "coppice: %u devices, pipes or sockets were left out\n",
			nr_left_out);
	return ok;
}

static int run(struct cop_cli *cli, const void *options, char **args, GError **error)
{
	g_autofree char *from_vm = NULL, *to_vm = NULL;
	const char *src = args[0], *dst = args[1];
	gboolean from = split(args[0], &from_vm, &src), to = split(args[1], &to_vm, &dst);
	gboolean ok;

	if (from == to) {
		cop_failure_usage(error, from ? "cp: from VM to VM is not supported"
					      : "cp: neither '%s' nor '%s' is VM:PATH",
				  args[0], args[1]);
		return COP_EXIT_USAGE;
	}
	(void)signal(SIGPIPE, SIG_IGN); /* a tar that has ended is noticed by its status */
	ok = from ? copy_out(cli, from_vm, src, dst, error) : copy_in(cli, src, to_vm, dst, error);
	if (ok && cli->json) {
		g_autoptr(JsonObject) document = json_object_new();

		json_object_set_string_member(document, "from", args[0]);
		json_object_set_string_member(document, "to", args[1]);
		cop_output_json(document);
	}
	return ok ? COP_EXIT_OK : COP_EXIT_FAILED;
}

const struct cop_command cop_cmd_cp = {
	.name = "cp",
	.arguments = "SRC VM:DST | VM:SRC DST",
	.summary = "Copy files and folders into a VM, or out of it",
	.details = "As cp -r does: into DST when it is a folder, else under its name. Links are "
		   "copied as links. Out of a VM come files, folders and links only, as yours.",
	.min_args = 2,
	.max_args = 2,
	.run = run,
};
