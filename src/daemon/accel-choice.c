/* Accelerator and machine type: see accel-choice.h. */
#include "accel-choice.h"
#include "accel.h"
#include "disk.h"
#include "gerror.h"
#include "json.h"

#include <string.h>
#include <unistd.h>

/* The versioned name behind the alias "q35", from a line like
 * "q35  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)": so that a template stays what it
 * is when QEMU is upgraded. */
static char *find_machine_type(const char *qemu, GError **error)
{
	const char *argv[] = {qemu, "-machine", "help", NULL};
	g_autofree char *out = cop_disk_run_program((char *const *)argv, error);
	const char *line, *alias;

	if (!out)
		return NULL;
	line = g_str_has_prefix(out, "q35 ") ? out : strstr(out, "\nq35 ");
	alias = line ? strstr(line, "(alias of ") : NULL;
	if (!alias) {
		cop_gerror_set(error, COP_ERR_UNSUPPORTED, "%s has no machine type 'q35'", qemu);
		return NULL;
	}
	alias += strlen("(alias of ");
	return g_strndup(alias, strcspn(alias, ")\n"));
}

JsonObject *cop_accel_findings(struct cop_state *state)
{
	gboolean root = geteuid() == 0;
	uid_t uid = root ? state->config->uid_base : (uid_t)-1;
	struct cop_accel_report report = {0};
	g_autoptr(GError) error = NULL;

	g_mutex_lock(&state->probe_lock);
	if (!state->accel_report) {
		JsonObject *obj = json_object_new();
		gboolean ok = cop_accel_probe(state->config->qemu, uid, uid, &report, &error);

		json_object_set_string_member(obj, "accel", ok ? report.accel : "tcg");
		json_object_set_boolean_member(obj, "kvm_ok",
					       ok && strcmp(report.accel, "kvm") == 0);
		json_object_set_string_member(obj, "found", ok ? report.found : error->message);
		json_object_set_string_member(obj, "advice", ok ? report.advice : "");
		cop_accel_report_clear(&report);
		state->accel_report = obj;
	}
	g_mutex_unlock(&state->probe_lock);
	return state->accel_report;
}

gboolean cop_accel_choose(struct cop_state *state, const char *wanted, struct cop_machine *machine,
			  GError **error)
{
	gboolean ok = TRUE;

	g_mutex_lock(&state->probe_lock);
	if (!state->machine_type)
		state->machine_type = find_machine_type(state->config->qemu, error);
	ok = state->machine_type != NULL;
	machine->type = g_strdup(state->machine_type);
	g_mutex_unlock(&state->probe_lock);
	if (!ok)
		return FALSE;
	if (strcmp(wanted, "auto") == 0)
		wanted = cop_json_str(cop_accel_findings(state), "accel", "tcg", NULL);
	else if (strcmp(wanted, "kvm") == 0 &&
		 !cop_json_bool(cop_accel_findings(state), "kvm_ok", FALSE, NULL))
		return cop_gerror_set(error, COP_ERR_UNSUPPORTED, "KVM can't be used: %s\n%s",
				      cop_json_str(cop_accel_findings(state), "found", "", NULL),
				      cop_json_str(cop_accel_findings(state), "advice", "", NULL));
	machine->accel = g_strdup(wanted);
	return TRUE;
}
