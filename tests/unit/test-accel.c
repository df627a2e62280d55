/* SPDX-License-Identifier: MIT */
/*
 * test-accel.c: the probe guest in the real QEMU, in make-believe ones, and the conclusions.
 * QEMU: qemu-system-x86_64 from PATH or $QEMU.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "daemon/accel.h"
#include "daemon/gerror.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534
/* Only a hang lasts this long. */
#define PATIENCE_MS 60000
#define AS_WE_ARE   ((uid_t)-1), ((gid_t)-1)

static char *dir;

static int setup(void **state)
{
	dir = g_dir_make_tmp("coppice-accel-XXXXXX", NULL);
	return dir && chmod(dir, 0755) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	g_autofree char *fake = g_build_filename(dir, "qemu", NULL);

	(void)unlink(fake);
	(void)rmdir(dir);
	g_free(dir);
	return 0;
}

static const char *real_qemu(void)
{
	const char *name = g_getenv("QEMU") ? g_getenv("QEMU") : "qemu-system-x86_64";
	g_autofree char *path = g_find_program_in_path(name);

	if (!path) {
		print_message("no %s\n", name);
		skip();
	}
	return name;
}

/* Every run must leave no child behind, dead or alive. */
static void expect_no_child(void)
{
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

/* Run the shell script @body in place of QEMU. */
static struct cop_accel_run run_fake(const char *body, unsigned int limit_ms)
{
	g_autofree char *fake = g_build_filename(dir, "qemu", NULL);
	g_autofree char *script = g_strdup_printf("#!/bin/sh\n%s\n", body);
	g_autoptr(GError) error = NULL;
	struct cop_accel_run run;

	assert_true(g_file_set_contents(fake, script, -1, NULL));
	assert_int_equal(chmod(fake, 0755), 0);
	if (!cop_accel_run_probe(fake, "kvm", "host", AS_WE_ARE, limit_ms, &run, &error))
		fail_msg("%s", error->message);
	expect_no_child();
	return run;
}

static void expect_passes_under_tcg(uid_t uid, gid_t gid)
{
	g_autoptr(GError) error = NULL;
	struct cop_accel_run run;

	if (!cop_accel_run_probe(real_qemu(), "tcg", "max", uid, gid, PATIENCE_MS, &run, &error))
		fail_msg("%s", error->message);
	if (run.end != COP_ACCEL_PASSED)
		fail_msg("end %d at \"%s\", exception %d, QEMU: %s", run.end,
			 cop_accel_step_name(run.reached), run.exception, run.said);
	assert_int_equal(run.reached, COP_ACCEL_DONE);
	assert_true(run.mips > 0);
	print_message("tcg: %u ms, %.0f million instructions a second\n", run.time_ms, run.mips);
	expect_no_child();
}

/* Catches: a guest with a mistake of its own, which would fail everywhere and so mean nothing. */
static void test_guest_passes_under_tcg(void **state)
{
	expect_passes_under_tcg(AS_WE_ARE);
}

/* Catches: a ROM or a QEMU that only root may open. */
static void test_guest_passes_as_nobody(void **state)
{
	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	expect_passes_under_tcg(NOBODY, NOBODY);
}

/* Catches: steps that check nothing: a CPU without SSE's registers or long mode must not pass. */
static void test_guest_notices_a_lesser_cpu(void **state)
{
	g_autoptr(GError) error = NULL;
	struct cop_accel_run run;

	assert_true(
		cop_accel_run_probe(real_qemu(), "tcg", "qemu32", AS_WE_ARE, 2000, &run, &error));
	assert_int_not_equal(run.end, COP_ACCEL_PASSED);
	assert_int_equal(run.reached, COP_ACCEL_PROTECTED_MODE); /* there is no long mode */
	assert_true(cop_accel_run_probe(real_qemu(), "tcg", "max,syscall=off", AS_WE_ARE, 2000,
					&run, &error));
	assert_int_equal(run.end, COP_ACCEL_WRONG_RESULT);
	assert_int_equal(run.reached, COP_ACCEL_USER_MODE);
	assert_int_equal(run.exception, 6);
	expect_no_child();
}

/* Catches: a probe of this host's KVM that hangs, or calls it good when the guest did not pass. */
static void test_kvm_here(void **state)
{
	struct cop_accel_report report = {0};
	g_autoptr(GError) error = NULL;
	gboolean root = geteuid() == 0;

	if (!cop_accel_probe(real_qemu(), root ? NOBODY : (uid_t)-1, root ? NOBODY : (gid_t)-1,
			     &report, &error))
		fail_msg("%s", error->message);
	print_message("accel:  %s\nfound:  %s\nadvice: %s\n", report.accel, report.found,
		      report.advice);
	if (report.run.end == COP_ACCEL_PASSED && report.device_opens_as_vm) {
		assert_string_equal(report.accel, "kvm");
		assert_string_equal(report.advice, "");
	} else {
		assert_string_equal(report.accel, "tcg");
		assert_string_not_equal(report.advice, "");
	}
	/* Two runs at most, with 5 s to start and 3 s to run each. */
	assert_true(report.run.time_ms + report.spare.time_ms < 30000);
	expect_no_child();
	cop_accel_report_clear(&report);
	assert_null(report.found);
	cop_accel_report_clear(NULL);
}

/* Catches: a missing program reported as a KVM that does not work. */
static void test_missing_qemu(void **state)
{
	g_autofree char *fake = g_build_filename(dir, "qemu", NULL);
	struct cop_accel_report report = {0};
	struct cop_accel_run run;
	GError *error = NULL;

	assert_false(cop_accel_probe("/nonexistent/qemu", AS_WE_ARE, &report, &error));
	assert_true(error->domain == COP_ERROR);
	assert_int_equal(error->code, COP_ERR_UNSUPPORTED);
	assert_non_null(strstr(error->message, "/nonexistent/qemu"));
	assert_non_null(strchr(error->message, '\n')); /* what to do */
	assert_null(report.found);
	g_clear_error(&error);

	assert_true(g_file_set_contents(fake, "not a program", -1, NULL));
	assert_int_equal(chmod(fake, 0755), 0);
	assert_false(cop_accel_run_probe(fake, "kvm", "host", AS_WE_ARE, 100, &run, &error));
	assert_non_null(strstr(error->message, fake));
	assert_non_null(strstr(error->message, "Exec format error"));
	g_clear_error(&error);
	expect_no_child();
}

/* Catches: a run called passed on less than all evidence; a wrong place named. */
static void test_bad_runs(void **state)
{
	struct cop_accel_run run;

	run = run_fake("printf ABCDEFGHIJZ; exit 85", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_PASSED);
	run = run_fake("printf ABCDEFGHIJZ; exit 0", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_DIED);
	run = run_fake("printf ABCDEFGHIZ; exit 85", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_WRONG_RESULT);
	run = run_fake("printf ABCDEFGHIJ; exit 85", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_DIED);
	assert_int_equal(run.reached, COP_ACCEL_SPEED);
	run = run_fake("exit 85", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_NO_START);
	run = run_fake("printf 'ABCDEF?'; exit 43", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_WRONG_RESULT);
	assert_int_equal(run.reached, COP_ACCEL_CMPXCHG16B);
	assert_int_equal(run.exception, -1);
	run = run_fake("printf 'ABCDEFG!0d'; exit 43", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_WRONG_RESULT);
	assert_int_equal(run.exception, 13);
	run = run_fake("printf ABC; kill -SEGV $$", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_DIED);
	assert_int_equal(run.reached, COP_ACCEL_LONG_MODE);
	run = run_fake("yes | head -c 100000; yes no | head -c 100000 >&2; exit 1", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_NO_START);
	run = run_fake("echo 'could not access KVM: so' >&2; echo more >&2; exit 1", PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_NO_START);
	assert_string_equal(run.said, "could not access KVM: so");
}

/* Catches: a wait for a QEMU that will never end. */
static void test_hanging_runs(void **state)
{
	struct cop_accel_run run;

	run = run_fake("printf ABCDEFGHIJ; exec sleep 1000", 50);
	assert_int_equal(run.end, COP_ACCEL_TOO_SLOW);
	assert_int_equal(run.reached, COP_ACCEL_SPEED);
	run = run_fake("printf ABCD; echo KVM internal error. Suberror: 1 >&2; exec sleep 1000",
		       PATIENCE_MS);
	assert_int_equal(run.end, COP_ACCEL_DIED);
	assert_int_equal(run.reached, COP_ACCEL_INT3);
	assert_true(run.time_ms < PATIENCE_MS);
	run = run_fake("printf ABCD; exec sleep 1000 >&- 2>&-", PATIENCE_MS); /* closed its pipes */
	assert_int_equal(run.end, COP_ACCEL_DIED);
}

/* Catches: KVM chosen where VMs can't use it; a sentence without the fact that matters. */
static void test_conclusions(void **state)
{
	static const struct {
		gboolean present, opens, opens_as_vm;
		mode_t mode;
		gid_t gid;
		enum cop_accel_end end;
		const char *accel, *found, *advice;
	} cases[] = {
		{FALSE, FALSE, FALSE, 0, 0, COP_ACCEL_NOT_RUN, "tcg", "no /dev/kvm", "firmware"},
		{TRUE, FALSE, FALSE, 0600, 0, COP_ACCEL_NOT_RUN, "tcg", "0600", "groupadd"},
		{TRUE, FALSE, FALSE, 0600, 5, COP_ACCEL_NOT_RUN, "tcg", "group 5", "chmod 660"},
		{TRUE, FALSE, FALSE, 0660, 5, COP_ACCEL_NOT_RUN, "tcg", "0660", "as root"},
		{TRUE, TRUE, FALSE, 0600, 0, COP_ACCEL_PASSED, "tcg", "user of VMs (7)",
		 "groupadd"},
		{TRUE, TRUE, FALSE, 0600, 0, COP_ACCEL_DIED, "tcg", "stopped at \"int3\"",
		 "nested"},
		{TRUE, TRUE, TRUE, 0660, 5, COP_ACCEL_DIED, "tcg", "stopped at \"int3\"", "TCG"},
		{TRUE, TRUE, TRUE, 0660, 5, COP_ACCEL_TOO_SLOW, "tcg", "still at \"int3\"", "TCG"},
		{TRUE, TRUE, TRUE, 0660, 5, COP_ACCEL_WRONG_RESULT, "tcg", "exception 6", "TCG"},
		{TRUE, TRUE, TRUE, 0660, 5, COP_ACCEL_NO_START, "tcg", "QEMU: words", "TCG"},
		{TRUE, TRUE, TRUE, 0660, 5, COP_ACCEL_PASSED, "kvm", "and the probe guest ran", ""},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct cop_accel_report r = {
			.device_present = cases[i].present,
			.device_opens = cases[i].opens,
			.device_opens_as_vm = cases[i].opens_as_vm,
			.device_mode = cases[i].mode,
			.device_gid = cases[i].gid,
			.vm_uid = 7,
			.run = {.end = cases[i].end,
				.reached = COP_ACCEL_INT3,
				.exception = 6,
				.said = "words"},
		};

		cop_accel_conclude(&r);
		cop_accel_conclude(&r); /* again: nothing piles up */
		assert_string_equal(r.accel, cases[i].accel);
		if (!strstr(r.found, cases[i].found) || !strstr(r.advice, cases[i].advice))
			fail_msg("case %zu: %s / %s", i, r.found, r.advice);
		assert_true((r.advice[0] == '\0') == (strcmp(r.accel, "kvm") == 0));
		cop_accel_report_clear(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guest_passes_under_tcg),
		cmocka_unit_test(test_guest_passes_as_nobody),
		cmocka_unit_test(test_guest_notices_a_lesser_cpu),
		cmocka_unit_test(test_kvm_here),
		cmocka_unit_test(test_missing_qemu),
		cmocka_unit_test(test_bad_runs),
		cmocka_unit_test(test_hanging_runs),
		cmocka_unit_test(test_conclusions),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
