/* What this host can and cannot do: see doctor.h. */
#include "doctor.h"
#include "accel-choice.h"
#include "gerror.h"
#include "json.h"
#include "pager.h"
#include "uffd.h"

#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>

static void add(JsonArray *checks, const char *name, const char *status, const char *found,
		const char *advice)
{
	JsonObject *obj = json_object_new();

	json_object_set_string_member(obj, "name", name);
	json_object_set_string_member(obj, "status", status);
	json_object_set_string_member(obj, "found", found);
	json_object_set_string_member(obj, "advice", advice);
	json_array_add_object_element(checks, obj);
}

static void check_qemu(struct cop_state *state, JsonArray *checks)
{
	const char *argv[] = {state->config->qemu, "--version", NULL};
	g_autofree char *out = NULL;
	unsigned major = 0, minor = 0;
	int status = 1;

	if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &out,
			  NULL, &status, NULL) ||
	    status != 0) {
		add(checks, "qemu", "fail", "QEMU does not run",
		    "apt-get install qemu-system-x86 qemu-utils");
		return;
	}
	out[strcspn(out, "\n")] = '\0';
	(void)sscanf(out, "QEMU emulator version %u.%u", &major, &minor);
	if (major * 100 + minor < 702)
		add(checks, "qemu", "warn", out, "coppice is tested with QEMU 7.2 and later");
	else
		add(checks, "qemu", "ok", out, "");
}

static void check_accel(struct cop_state *state, JsonArray *checks)
{
	JsonObject *findings = cop_accel_findings(state);
	gboolean kvm = cop_json_bool(findings, "kvm_ok", FALSE, NULL);

	add(checks, "kvm", kvm ? "ok" : "warn", cop_json_str(findings, "found", "", NULL),
	    cop_json_str(findings, "advice", "", NULL));
}

static void check_user(struct cop_state *state, JsonArray *checks)
{
	g_autofree char *text = NULL;

	if (geteuid() == 0) {
		text = g_strdup_printf("each VM runs as a user of its own, %u and up",
				       (unsigned)state->config->uid_base);
		add(checks, "users", "ok", text, "");
	} else {
		add(checks, "users", "warn",
		    "the daemon is not root: all VMs run as the same user as the daemon",
		    "run coppiced as root for one user a VM");
	}
}

static void check_cgroup(struct cop_state *state, JsonArray *checks)
{
	g_autofree char *text = NULL;

	if (state->cgroup_path) {
		text = g_strdup_printf("cgroup %s: %s", state->cgroup_v2 ? "v2" : "v1",
				       state->cgroup_path);
		add(checks, "cgroup", "ok", text, "");
	} else {
		add(checks, "cgroup", "warn",
		    "no memory cgroup: memory paid is summed from the processes",
		    "run coppiced as root on a host with the memory controller of cgroup v2 or v1");
	}
}

static void check_ram(struct cop_state *state, JsonArray *checks)
{
	struct statfs fs;
	g_autofree char *size = NULL, *text = NULL;
	uint64_t free_bytes;

	if (statfs(state->config->ram_dir, &fs) < 0 || fs.f_type != TMPFS_MAGIC) {
		add(checks, "ram-dir", "fail", "RAM images are not on a tmpfs",
		    "choose a --ram-dir on a tmpfs, such as /dev/shm");
		return;
	}
	free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	size = cop_file_size_text(free_bytes);
	text = g_strdup_printf("%s free for RAM images in %s", size, state->config->ram_dir);
	add(checks, "ram-dir", free_bytes < (1ull << 30) ? "warn" : "ok", text,
	    free_bytes < (1ull << 30) ? "mount -o remount,size=80% /dev/shm" : "");
}

static void check_disk(struct cop_state *state, JsonArray *checks)
{
	struct statvfs fs;
	g_autofree char *size = NULL, *text = NULL;
	uint64_t free_bytes;

	if (statvfs(state->config->dir, &fs) < 0) {
		add(checks, "disk", "fail", "the state folder can't be read", "check its disk");
		return;
	}
	free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	size = cop_file_size_text(free_bytes);
	text = g_strdup_printf("%s free in %s", size, state->config->dir);
	add(checks, "disk", free_bytes < (2ull << 30) ? "warn" : "ok", text,
	    free_bytes < (2ull << 30) ? "free some space, or use another --dir" : "");
}

static void check_engine(struct cop_state *state, JsonArray *checks)
{
	g_autofree char *trouble = cop_pager_trouble(state), *text = NULL;
	g_autoptr(GError) why = NULL;

	if (cop_uffd_check(&why)) {
		text = g_strdup_printf("usable, by %s", cop_uffd_source());
		add(checks, "userfaultfd", "ok", text, "");
	} else {
		g_autofree char *found = cop_gerror_message(why), *hint = cop_gerror_hint(why);

		add(checks, "userfaultfd",
		    strcmp(state->config->engine, "pager") == 0 ? "fail" : "warn", found, hint);
	}
	if (*trouble)
		add(checks, "pager", "fail", trouble, "see pager.log in the state folder");
	else if (!state->config->pager ||
		 !g_file_test(state->config->pager, G_FILE_TEST_IS_EXECUTABLE))
		add(checks, "pager", "warn", "cannot run coppice-pager: VMs run on the engine kernel",
		    "reinstall coppice, or use --pager PROGRAM");
	else
		add(checks, "pager", "ok", state->config->pager, "");
}

static void check_templates(struct cop_state *state, JsonArray *checks)
{
	GHashTableIter iter;
	struct cop_template *tpl;

	g_mutex_lock(&state->lock);
	g_hash_table_iter_init(&iter, state->templates);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&tpl)) {
		if (tpl->broken) {
			g_autofree char *name = g_strdup_printf("template %s", tpl->name);

			add(checks, name, "fail", tpl->broken, "coppice template rm, or restore it");
		}
	}
	g_mutex_unlock(&state->lock);
	if (state->keep_files)
		add(checks, "vms", "fail", "a VM's vm.json can't be read: no unused file is removed",
		    "see the daemon's log; repair or remove that folder, then restart coppiced");
}

JsonObject *cop_doctor(struct cop_state *state)
{
	JsonObject *obj = json_object_new();
	JsonArray *checks = json_array_new();

	check_qemu(state, checks);
	check_accel(state, checks);
	check_user(state, checks);
	check_cgroup(state, checks);
	check_ram(state, checks);
	check_disk(state, checks);
	check_engine(state, checks);
	check_templates(state, checks);
	json_object_set_string_member(
		obj, "accel", cop_json_str(cop_accel_findings(state), "accel", "tcg", NULL));
	json_object_set_string_member(obj, "engine",
				      cop_pager_choose(state, "auto", NULL) ?: "kernel");
	json_object_set_array_member(obj, "checks", checks);
	return obj;
}
