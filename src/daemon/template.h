/* A template on disk: DIR/templates/NAME/ with template.json, ram, state and seed-N.qcow2.
 *
 * A template is valid if and only if its folder has its final name (it is renamed there when all in
 * it is written and synced), template.json can be read, and every file has the checksum noted there.
 */
#ifndef COP_DAEMON_TEMPLATE_H
#define COP_DAEMON_TEMPLATE_H

#include "state.h"

/* Adds the checksum of a file to sums["files"][key]; path is hashed. */
gboolean cop_template_sum_file(JsonObject *sums, const char *key, const char *path, GError **error);
/* Writes template.json into the folder (not yet the final one) and syncs it. */
gboolean cop_template_save(const struct cop_template *tpl, const char *dir, GError **error);
/* Reads a folder; the result is ready, or broken with a reason. Never NULL. */
struct cop_template *cop_template_read(struct cop_state *state, const char *name);
/* Are all parts what they were at the freeze? Files whose size, inode and times are unchanged are
 * taken as they are, others are read and compared; full reads all. report (may be NULL) receives an
 * object a part: "part", "ok", "detail". Blocks; takes tpl->load_lock. */
gboolean cop_template_check(struct cop_state *state, struct cop_template *tpl, gboolean full,
			    JsonArray *report, GError **error);
/* Brings the RAM image into ram_dir when it is not there (after a restart of the host). With the
 * pager's engine: an empty image, and the pager knows what belongs there. Blocks. */
gboolean cop_template_load(struct cop_state *state, struct cop_template *tpl, GError **error);
/* Descriptors for the pager: RAM file, its checksums, chunks touched first. */
gboolean cop_template_open_ram(struct cop_state *state, struct cop_template *tpl, int ret_fds[3],
			       GError **error);
/* Removes a template's folder: renamed first, so that no half of it is taken for a template. */
void cop_template_remove_folder(struct cop_state *state, const char *name);
/* Templates frozen from clones of this one have all they need: its parent becomes theirs. With the
 * lock held. */
void cop_template_lift_children(struct cop_state *state, const struct cop_template *tpl);
/* Removes a template that no VM needs. */
gboolean cop_template_remove(struct cop_state *state, const char *name, GError **error);
/* JSON for the API. Takes the lock. */
JsonObject *cop_template_to_json(struct cop_state *state, struct cop_template *tpl);
JsonObject *cop_template_times_to_json(const struct cop_freeze_times *times);

#endif
