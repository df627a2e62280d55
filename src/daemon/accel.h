/* SPDX-License-Identifier: MIT */
/*
 * accel.h: find out by trying whether KVM can run an operating system here.
 *
 * A host may have a /dev/kvm that opens, and runs ten instructions, and yet boots nothing. So QEMU
 * runs a small guest of ours (src/guest/probe.S) that does what kernels do and tells how far it
 * got.
 */
#ifndef COP_DAEMON_ACCEL_H
#define COP_DAEMON_ACCEL_H

#include <glib.h>
#include <sys/types.h>

/* What the probe guest does, in order. A step is reached when it has begun. */
enum cop_accel_step {
	COP_ACCEL_NOTHING, /* the guest never ran */
	COP_ACCEL_REAL_MODE,
	COP_ACCEL_PROTECTED_MODE,
	COP_ACCEL_LONG_MODE,
	COP_ACCEL_INT3,
	COP_ACCEL_PAGE_FAULT,
	COP_ACCEL_CMPXCHG16B,
	COP_ACCEL_XSAVE,
	COP_ACCEL_MSR,
	COP_ACCEL_USER_MODE,
	COP_ACCEL_SPEED, /* 30 million instructions in kernel mode */
	COP_ACCEL_DONE,
};

/* How a run of the probe guest ended. */
enum cop_accel_end {
	COP_ACCEL_NOT_RUN,	/* nobody tried */
	COP_ACCEL_PASSED,	/* every step gave the right result in time */
	COP_ACCEL_WRONG_RESULT, /* a step gave a wrong result or an exception */
	COP_ACCEL_DIED,		/* QEMU ended or gave up in the middle */
	COP_ACCEL_TOO_SLOW,	/* the guest was still at it when its time was up */
	COP_ACCEL_NO_START,	/* QEMU did not come as far as the guest's first instruction */
};

/* One run of the probe guest. */
struct cop_accel_run {
	enum cop_accel_end end;
	enum cop_accel_step reached;
	unsigned int time_ms; /* from the start of QEMU to its end */
	double mips;	      /* million kernel-mode instructions a second; 0 if not measured */
	int exception;	      /* the CPU's number of an exception that nobody expected, else -1 */
	char said[200];	      /* first line that QEMU wrote to its error output, maybe "" */
};

/* Everything that was found; filled in by cop_accel_probe(). */
struct cop_accel_report {
	const char *accel; /* "kvm" or "tcg": what --accel auto stands for */

	gboolean device_present;     /* there is a character device /dev/kvm */
	gboolean device_opens;	     /* this process can open it for reading and writing */
	gboolean device_opens_as_vm; /* the user that runs VMs can */
	mode_t device_mode;	     /* its permission bits */
	uid_t device_uid;
	gid_t device_gid;
	uid_t vm_uid; /* as given to cop_accel_probe() */

	struct cop_accel_run run;   /* with -cpu host, as VMs have it */
	struct cop_accel_run spare; /* with a plainer CPU, when the first did not start */

	char *found;  /* a sentence: what is there and what it did */
	char *advice; /* a sentence: what to do about it; "" when accel is "kvm" */
};

/* The name of @step, such as "int3". Static. */
const char *cop_accel_step_name(enum cop_accel_step step);

/*
 * Run the probe guest once, in @qemu (a path or a name to be looked up in PATH), with @accel ("kvm"
 * or "tcg") and @cpu, as @uid and @gid (-1: as this process is) with /dev/kvm's group beside it,
 * sandboxed, for at most @limit_ms after its first instruction, which it must reach within 5 s.
 * Blocks; any thread; QEMU is gone and reaped when this returns, and dies with this process. FALSE,
 * with COP_ERR_UNSUPPORTED or COP_ERR_INTERNAL, only when QEMU could not be executed at all;
 * whatever it did then is in
 * *@ret_run.
 */
gboolean cop_accel_run_probe(const char *qemu, const char *accel, const char *cpu, uid_t uid,
			     gid_t gid, unsigned int limit_ms, struct cop_accel_run *ret_run,
			     GError **error);

/*
 * Look at /dev/kvm and try it, with a limit of 3 s for each of at most two runs (0.1 s in all where
 * KVM works). @uid and @gid: of the VMs, or -1 when they run as this process does. Blocks; any
 * thread. The caller keeps the result and clears it with cop_accel_report_clear(). FALSE as above;
 * a KVM that can't be used is no error.
 */
gboolean cop_accel_probe(const char *qemu, uid_t uid, gid_t gid,
			 struct cop_accel_report *ret_report, GError **error);

/* Decide: fill in accel, found and advice from the other fields. Pure. */
void cop_accel_conclude(struct cop_accel_report *report);

/* Free what @report owns and zero it. @report may be NULL. */
void cop_accel_report_clear(struct cop_accel_report *report);

#endif
