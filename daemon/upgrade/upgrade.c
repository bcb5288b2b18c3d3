/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which program we are, and the way to another one. */
#include "upgrade/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"
#include "guest/ledger.h"
#include "log.h"
#include "refusal.h"
#include "store/manager.h"
#include "store/store.h"
#include "upgrade/program-file.h"
#include "upgrade/reexec.h"
#include "upgrade/release.h"

#define OWN_PROGRAM "/proc/self/exe"
#define DELETED	    " (deleted)"

struct upgrade {
	int own;    /* owned; this program */
	int before; /* owned; the one to go back to, -EBADF: none */
	char before_name[16];
	uint32_t before_layout;
	int reply; /* owned */
	struct upgrade_past past;
	struct store *store; /* where guests outlive us */
};

/* ---- what the program before left ---- */

static const struct {
	const char *word;
	enum upgrade_kind kind;
} kinds[] = {
	{ "upgrade", UPGRADE_FORWARD },
	{ "rollback", UPGRADE_BACK },
};

static void copy_text(const json_t *from, const char *member, char *ret, size_t n_ret)
{
	const char *text = json_string_value(json_object_get(from, member));

	snprintf(ret, n_ret, "%s", text ? text : "");
}

static void take_past(struct upgrade_past *ret)
{
	const char *text = getenv(REEXEC_VARIABLE);
	json_t *past = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const char *word = json_string_value(json_object_get(past, "kind"));

	unsetenv(REEXEC_VARIABLE);
	for (size_t i = 0; word && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(word, kinds[i].word) == 0)
			ret->kind = kinds[i].kind;
	copy_text(past, "from", ret->from, sizeof(ret->from));
	copy_text(past, "binary", ret->binary, sizeof(ret->binary));
	copy_text(past, "error", ret->error, sizeof(ret->error));
	if (ret->kind != UPGRADE_NONE && ret->error[0])
		ret->kind = UPGRADE_FAILED;
	ret->parked_ns = (uint64_t)json_integer_value(json_object_get(past, "parked_ns"));
	ret->n_guests = (uint64_t)json_integer_value(json_object_get(past, "guests"));
	ret->is_draining = json_is_true(json_object_get(past, "draining"));
	json_decref(past);
}

int upgrade_new(struct upgrade **ret)
{
	_cleanup_(upgrade_freep) struct upgrade *upgrade = calloc(1, sizeof(*upgrade));

	if (!upgrade)
		return -ENOMEM;
	upgrade->before = upgrade->reply = -EBADF;
	upgrade->own = open(OWN_PROGRAM, O_RDONLY | O_CLOEXEC);
	if (upgrade->own < 0)
		return -errno;
	take_past(&upgrade->past);
	/* what is executed by its fd is called after that fd's number */
	prctl(PR_SET_NAME, "ufdd");
	*ret = TAKE_PTR(upgrade);
	return 0;
}

struct upgrade *upgrade_free(struct upgrade *upgrade)
{
	if (!upgrade)
		return NULL;
	closep(&upgrade->own);
	closep(&upgrade->before);
	closep(&upgrade->reply);
	free(upgrade);
	return NULL;
}

/* `old` and a layout. @fd: consumed if the answer is true. */
static bool take_before(struct upgrade *upgrade, const char *name, int fd)
{
	char *end;
	unsigned long layout;

	if (strncmp(name, "old", 3) != 0)
		return false;
	layout = strtoul(name + 3, &end, 10);
	if (end == name + 3 || *end || layout < 1 || layout > UINT32_MAX)
		return false;
	closep(&upgrade->before);
	upgrade->before = fd;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	upgrade->before_layout = (uint32_t)layout;
	snprintf(upgrade->before_name, sizeof(upgrade->before_name), "%s", name);
	return true;
}

bool upgrade_offer(struct upgrade *upgrade, const char *name, int fd)
{
	if (strcmp(name, "reply") != 0)
		return take_before(upgrade, name, fd);
	closep(&upgrade->reply);
	upgrade->reply = fd;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	return true;
}

static void forget_before(struct upgrade *upgrade)
{
	const char *directory = upgrade->store ? store_directory(upgrade->store) : NULL;

	if (upgrade->before < 0)
		return;
	closep(&upgrade->before);
	upgrade->before = -EBADF;
	if (manager_store_max())
		(void)manager_remove(upgrade->before_name);
	if (directory)
		program_file_remove(directory, upgrade->before_name);
}

static void load_before(struct upgrade *upgrade, const char *directory)
{
	char name[sizeof(upgrade->before_name)];
	int fd, r = program_file_load(directory, name, &fd);

	if (r == 0 && !take_before(upgrade, name, fd))
		close(fd);
	if (r < 0 && r != -ENOENT)
		log_warning(LOG_FIELDS(.error = r),
			    "the program before, in %s, cannot be gone back to", directory);
}

void upgrade_settle(struct upgrade *upgrade, struct store *store)
{
	const char *directory = store_directory(store);

	upgrade->store = store;
	if (upgrade->before < 0 && upgrade->past.kind == UPGRADE_NONE && directory)
		load_before(upgrade, directory);
	if (upgrade->past.kind == UPGRADE_BACK || upgrade->past.kind == UPGRADE_FAILED)
		forget_before(upgrade);
}

const struct upgrade_past *upgrade_past(const struct upgrade *upgrade)
{
	return &upgrade->past;
}

int upgrade_take_reply(struct upgrade *upgrade)
{
	return TAKE_FD(upgrade->reply);
}

bool upgrade_is_uncommitted(const struct upgrade *upgrade)
{
	return upgrade->before >= 0;
}

uint32_t upgrade_min_reader(const struct upgrade *upgrade)
{
	if (upgrade->before < 0 || upgrade->before_layout > ledger_layout)
		return ledger_layout;
	return upgrade->before_layout;
}

void upgrade_commit(struct upgrade *upgrade)
{
	forget_before(upgrade);
}

/* ---- which program ---- */

void upgrade_target_done(struct upgrade_target *target)
{
	closep(&target->binary);
	*target = UPGRADE_TARGET_NONE;
}

/* Where an installer would have put another one: what we were called by, else what we are. */
static int own_path(char *ret, size_t n_ret)
{
	_cleanup_(freep) char **arguments = NULL;
	_cleanup_(freep) char *block = NULL;
	size_t n_deleted = strlen(DELETED);
	ssize_t n;
	int r;

	r = reexec_arguments(&arguments, &block);
	if (r < 0)
		return r;
	if (arguments[0] && strchr(arguments[0], '/')) {
		snprintf(ret, n_ret, "%s", arguments[0]);
		return 0;
	}
	n = readlink(OWN_PROGRAM, ret, n_ret - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	if ((size_t)n > n_deleted && strcmp(ret + n - n_deleted, DELETED) == 0)
		ret[(size_t)n - n_deleted] = '\0';
	return 0;
}

static int refuse_path(const char *path, const char *why, struct refusal *refusal)
{
	return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL, "%s cannot be run: %s",
			   path, why);
}

int upgrade_target_open(struct upgrade *upgrade, const char *given, struct upgrade_target *ret,
			struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[sizeof(ret->name)];
	struct stat info;
	int r = 0;

	if (given)
		snprintf(path, sizeof(path), "%s", given);
	else
		r = own_path(path, sizeof(path));
	if (r < 0)
		return r;
	if (given && strlen(given) >= sizeof(path))
		return refuse_path(path, strerror(ENAMETOOLONG), refusal);
	if (given && given[0] != '/')
		return refuse_path(path, "the path must begin at the root", refusal);
	if (upgrade->before >= 0)
		return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL,
				   "the last upgrade can still be rolled back; `ufdctl upgrade "
				   "--commit` or `--rollback` comes first");
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return refuse_path(path, strerror(errno), refusal);
	if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))
		return refuse_path(path, "it is no regular file", refusal);
	*ret = (struct upgrade_target){ .binary = TAKE_FD(fd) };
	strcpy(ret->name, path);
	return 0;
}

int upgrade_target_before(struct upgrade *upgrade, struct upgrade_target *ret,
			  struct refusal *refusal)
{
	int fd = -EBADF, r;

	if (upgrade->before < 0)
		return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL,
				   "there is nothing to go back to: no upgrade since the start, or "
				   "it is committed");
	r = fd_duplicate(&fd, upgrade->before);
	if (r < 0)
		return r;
	*ret = (struct upgrade_target){ .binary = fd, .is_back = true };
	strcpy(ret->name, "the program before");
	return 0;
}

/* ---- the way ---- */

static int add_all(struct upgrade *upgrade, const struct upgrade_go *go, struct reexec *reexec)
{
	_cleanup_(freep) struct store_fd *stored = NULL;
	size_t n_stored = 0;
	int r;

	for (size_t i = 0; i < go->n_fds; i++) {
		r = reexec_add(reexec, go->fds[i].name, go->fds[i].fd);
		if (r < 0)
			return r;
	}
	r = store_list(upgrade->store, &stored, &n_stored);
	for (size_t i = 0; r == 0 && i < n_stored; i++)
		r = reexec_add(reexec, stored[i].name, stored[i].fd);
	if (r < 0)
		return r;
	if (upgrade->before >= 0)
		return reexec_add(reexec, upgrade->before_name, upgrade->before);
	return 0;
}

/* Does the manager keep one fd more? If not it would let it go without a word. */
static bool has_room(const struct store *store)
{
	size_t n_fds, n_name_bytes;

	store_count(store, &n_fds, &n_name_bytes);
	return n_fds < manager_store_max();
}

/* What we are becomes what was before. It is kept before anybody runs the other one. */
static int keep_own(struct upgrade *upgrade)
{
	const char *directory = store_directory(upgrade->store);
	int r;

	r = fd_duplicate(&upgrade->before, upgrade->own);
	if (r < 0)
		return r;
	upgrade->before_layout = ledger_layout;
	snprintf(upgrade->before_name, sizeof(upgrade->before_name), "old%u", ledger_layout);
	if (directory)
		r = program_file_save(directory, upgrade->before_name, upgrade->own);
	if (r < 0 || !manager_store_max() || (!has_room(upgrade->store) && directory))
		return r;
	if (!has_room(upgrade->store))
		return -ENOSPC;
	r = manager_keep(upgrade->before_name, upgrade->before);
	return r < 0 ? r : manager_barrier();
}

static int prepare(struct upgrade *upgrade, const struct upgrade_go *go, struct reexec **ret)
{
	_cleanup_(reexec_freep) struct reexec *reexec = NULL;
	int r;

	r = reexec_new(&reexec);
	if (r == 0 && !go->target->is_back)
		r = keep_own(upgrade);
	if (r == 0)
		r = add_all(upgrade, go, reexec);
	if (r == 0)
		r = reexec_prepare(reexec, go->target->binary, upgrade->own);
	if (r == 0)
		*ret = TAKE_PTR(reexec);
	return r;
}

int upgrade_go(struct upgrade *upgrade, const struct upgrade_go *go, struct refusal *refusal)
{
	_cleanup_(reexec_freep) struct reexec *reexec = NULL;
	json_t *past;
	int r;

	past = json_pack("{s:s, s:s, s:s, s:I, s:b}", "kind",
			 go->target->is_back ? "rollback" : "upgrade", "from", release_version,
			 "binary", go->target->name, "guests", (json_int_t)go->n_guests, "draining",
			 go->is_draining);
	r = past ? prepare(upgrade, go, &reexec) : -ENOMEM;
	if (r < 0) {
		json_decref(past);
		if (!go->target->is_back)
			forget_before(upgrade);
		return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL,
				   "the guests cannot be handed over: %s", strerror(-r));
	}
	json_object_set_new(past, "parked_ns", json_integer((json_int_t)clock_now_ns()));
	go->park(go->userdata);
	reexec_go(reexec, past);
}
