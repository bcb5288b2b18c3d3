/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where ledgers and handles outlive us.
 *
 * Theory of operation: an item is one guest's place. It owns duplicates of the ledger and the bundle
 * for as long as the guest has it, so that items can be handed on (store_list()) and copied
 * (store_park()) when the engine has let the guest go. What was left by a former process and is
 * adopted by nobody stays an item: its number is not given to another guest, and a successor gets
 * it, too.
 */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "base/files.h"
#include "guest/ledger.h"
#include "store/bundle.h"
#include "store/left.h"
#include "store/manager.h"
#include "store/number.h"
#include "store/shelf.h"
#include "store/sockets.h"

struct item {
	LIST_ENTRY(item) item_link;
	uint32_t number;
	int ledger;	 /* owned; -EBADF: a bundle without its ledger */
	int bundle;	 /* owned; -EBADF: a ledger without its bundle */
	bool has_ledger; /* the manager has it */
	bool has_bundle; /* the manager has it */
	bool is_ours; /* of a guest that is served: what its ledger asks of readers is set by us */
	bool is_left; /* by a former process, and could not be adopted */
	const char *oddity; /* what came with a name that does not fit it; NULL: nothing */
};

struct store {
	char *directory;	 /* owned; NULL if there is none */
	int shelf;		 /* owned; of the directory */
	size_t n_most;		 /* fds the manager keeps; 0: it keeps none */
	struct sockets *sockets; /* owned */
	LIST_HEAD(, item) item_list;
	size_t n_items;
	size_t n_foreign_bytes; /* names of sockets and of what else we were started with */
	uint32_t next_number;
	uint32_t min_reader; /* 0: whatever a ledger asks */
};

/* ---- names ---- */

static void item_name(const struct item *item, char kind, char ret[static 16])
{
	char number[STORE_NUMBER_BYTES];

	number_print(item->number, number);
	snprintf(ret, 16, "%c%s", kind, number);
}

/* ---- items ---- */

static struct item *item_find(const struct store *store, uint32_t number)
{
	struct item *item;

	LIST_FOREACH(item, &store->item_list, item_link)
	if (item->number == number)
		return item;
	return NULL;
}

static struct item *item_of_text(const struct store *store, const char *number)
{
	uint32_t value;

	return number_parse(number, &value) ? item_find(store, value) : NULL;
}

static struct item *item_add(struct store *store, uint32_t number)
{
	struct item *item = calloc(1, sizeof(*item));

	if (!item)
		return NULL;
	item->number = number;
	item->ledger = item->bundle = -EBADF;
	LIST_INSERT_HEAD(&store->item_list, item, item_link);
	store->n_items++;
	return item;
}

/* The manager forgets it, too: the ledger last, for it tells what the bundle was. */
static void item_remove(struct store *store, struct item *item)
{
	char name[16];

	if (item->has_bundle) {
		item_name(item, 'b', name);
		manager_remove(name);
	}
	if (item->has_ledger) {
		item_name(item, 'l', name);
		manager_remove(name);
	}
	LIST_REMOVE(item, item_link);
	store->n_items--;
	closep(&item->ledger);
	closep(&item->bundle);
	free(item);
}

/* A number that nobody has. Small ones first: names are short then. */
static int number_choose(struct store *store, uint32_t *ret)
{
	for (uint32_t i = 0; i <= store->n_items && i < N_NUMBERS; i++) {
		uint32_t number = (store->next_number + i) % (uint32_t)(store->n_items + 1);

		if (item_find(store, number))
			continue;
		store->next_number = number + 1;
		*ret = number;
		return 0;
	}
	return -ENOSPC;
}

/* ---- the store ---- */

int store_new(struct store **ret, const char *state_dir)
{
	_cleanup_(store_freep) struct store *store = calloc(1, sizeof(*store));
	int r;

	if (!store)
		return -ENOMEM;
	store->shelf = -EBADF;
	LIST_INIT(&store->item_list);
	store->n_most = manager_store_max();
	if (state_dir && state_dir[0]) {
		r = shelf_open(state_dir, &store->shelf);
		if (r < 0)
			return r;
		store->directory = strdup(state_dir);
		if (!store->directory)
			return -ENOMEM;
	}
	r = sockets_new(&store->sockets, store->shelf, store->n_most > 0);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(store);
	return 0;
}

struct store *store_free(struct store *store)
{
	struct item *item;

	if (!store)
		return NULL;
	while ((item = LIST_FIRST(&store->item_list))) {
		LIST_REMOVE(item, item_link);
		closep(&item->ledger);
		closep(&item->bundle);
		free(item);
	}
	sockets_free(store->sockets);
	closep(&store->shelf);
	free(store->directory);
	free(store);
	return NULL;
}

bool store_is_systemd(const struct store *store)
{
	return store->n_most > 0;
}

bool store_outlives_stop(const struct store *store)
{
	return store->directory;
}

const char *store_word(const struct store *store)
{
	return store->n_most > 0 ? "systemd" : store->directory ? "directory" : "none";
}

struct sockets *store_sockets(struct store *store)
{
	return store->sockets;
}

const char *store_directory(const struct store *store)
{
	return store->directory;
}

size_t store_most_fds(const struct store *store)
{
	return store->n_most;
}

void store_count(const struct store *store, size_t *ret_n_fds, size_t *ret_name_bytes)
{
	size_t n_fds = 0, n_bytes = store->n_foreign_bytes;
	const struct item *item;
	char name[16];

	LIST_FOREACH(item, &store->item_list, item_link)
	{
		size_t n = (size_t)item->has_ledger + item->has_bundle;

		item_name(item, 'l', name);
		n_fds += n;
		n_bytes += n * (strlen(name) + 1);
	}
	sockets_add_up(store->sockets, &n_fds, &n_bytes);
	*ret_n_fds = n_fds;
	*ret_name_bytes = n_bytes;
}

/* ---- what was left ---- */

static void item_set(struct item *item, char kind, int fd, bool is_of_manager)
{
	int *place = kind == 'l' ? &item->ledger : &item->bundle;
	bool fits = kind == 'l' ? left_is_ledger(fd) : bundle_is(fd);

	*(kind == 'l' ? &item->has_ledger : &item->has_bundle) = is_of_manager;
	if (!fits)
		item->oddity = kind == 'l' ? "its ledger is no file for reading and writing"
					   : "its bundle is another kind of fd";
	else if (*place >= 0)
		item->oddity = "two fds have the same name";
	if (!fits || *place >= 0) {
		close(fd);
		return;
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	*place = fd;
}

bool store_offer(struct store *store, const char *name, int fd)
{
	struct item *item;
	uint32_t number;

	if (sockets_offer(store->sockets, name, fd))
		return true;
	if ((name[0] != 'l' && name[0] != 'b') || !number_parse(name + 1, &number)) {
		store->n_foreign_bytes += strlen(name) + 1;
		return false;
	}
	item = item_find(store, number);
	if (!item)
		item = item_add(store, number);
	if (item)
		item_set(item, name[0], fd, store->n_most > 0);
	else
		close(fd); /* the manager still has it */
	return true;
}

void stored_close(struct stored *stored)
{
	closep(&stored->ledger);
	closep(&stored->bundle);
	stored->ledger = stored->bundle = -EBADF;
}

void stored_free(struct stored *stored, size_t n_stored)
{
	for (size_t i = 0; i < n_stored; i++) {
		free(stored[i].path);
		stored_close(&stored[i]);
	}
	free(stored);
}

struct taking {
	struct stored *stored; /* owned */
	size_t n_stored;
	void (*report)(void *userdata, const char *sentence);
	void *userdata;
};

static void report_item(const struct taking *taking, const struct item *item)
{
	const char *oddity = item->oddity;
	char text[160], number[STORE_NUMBER_BYTES];

	if (!oddity && item->ledger < 0)
		oddity = "a bundle without its ledger: the guest's handles are kept, nobody knows "
			 "what they are";
	if (!oddity && item->bundle < 0)
		oddity = "a ledger without its bundle: the handles are looked for elsewhere";
	if (!oddity)
		return;
	number_print(item->number, number);
	snprintf(text, sizeof(text), "stored guest %s: %s", number, oddity);
	taking->report(taking->userdata, text);
}

static int take_item(struct taking *taking, struct item *item)
{
	struct stored *stored = &taking->stored[taking->n_stored];
	int r;

	report_item(taking, item);
	item->is_left = item->ledger < 0;
	if (item->is_left)
		return 0;
	*stored = (struct stored){ .ledger = -EBADF, .bundle = -EBADF };
	number_print(item->number, stored->number);
	taking->n_stored++;
	r = fd_duplicate(&stored->ledger, item->ledger);
	if (r == 0 && item->bundle >= 0)
		r = fd_duplicate(&stored->bundle, item->bundle);
	return r;
}

/* One that came as an fd, too? */
static struct stored *find_inode(const struct taking *taking, const struct shelf_file *file)
{
	for (size_t i = 0; i < taking->n_stored; i++) {
		struct stat info;

		if (fstat(taking->stored[i].ledger, &info) == 0 && info.st_dev == file->device &&
		    info.st_ino == file->inode)
			return &taking->stored[i];
	}
	return NULL;
}

static void take_file(struct taking *taking, size_t n_items, struct shelf_file *file)
{
	struct stored *known = n_items ? find_inode(taking, file) : NULL;

	if (known) {
		free(known->path);
		known->path = TAKE_PTR(file->path);
		return;
	}
	taking->stored[taking->n_stored++] = (struct stored){
		.path = TAKE_PTR(file->path),
		.ledger = TAKE_FD(file->fd),
		.bundle = -EBADF,
	};
}

static int take_all(struct store *store, struct taking *taking, struct shelf_file *files,
		    size_t n_files)
{
	struct item *item;
	int r;

	taking->stored = calloc(store->n_items + n_files + 1, sizeof(*taking->stored));
	if (!taking->stored)
		return -ENOMEM;
	LIST_FOREACH(item, &store->item_list, item_link)
	{
		r = take_item(taking, item);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < n_files; i++)
		take_file(taking, store->n_items, &files[i]);
	return 0;
}

int store_take(struct store *store, struct stored **ret, size_t *ret_n,
	       void (*report)(void *userdata, const char *sentence), void *userdata)
{
	struct taking taking = { .report = report, .userdata = userdata };
	struct shelf_file *files = NULL;
	size_t n_files = 0;
	int r = 0;

	if (store->directory)
		r = shelf_list(store->shelf, store->directory, &files, &n_files);
	if (r == 0)
		r = take_all(store, &taking, files, n_files);
	shelf_files_free(files, n_files);
	if (r < 0) {
		stored_free(taking.stored, taking.n_stored);
		return r;
	}
	*ret = taking.stored;
	*ret_n = taking.n_stored;
	return 0;
}

static void remove_file(const struct store *store, int ledger)
{
	struct stat info;

	if (store->directory && ledger >= 0 && fstat(ledger, &info) == 0)
		shelf_remove(store->shelf, info.st_dev, info.st_ino);
}

void store_discard(struct store *store, const struct stored *stored)
{
	remove_file(store, stored->ledger);
	store_drop(store, stored->number);
}

void store_leave(struct store *store, const char *number)
{
	struct item *item = item_of_text(store, number);

	if (item)
		item->is_left = true;
}

bool store_has_left(const struct store *store, int ledger)
{
	const struct item *item;

	LIST_FOREACH(item, &store->item_list, item_link)
	if (item->is_left && left_has_same_name(item->ledger, ledger))
		return true;
	return false;
}

/* ---- keeping ---- */

/* What the manager does not have yet. */
static int item_send(struct store *store, struct item *item)
{
	bool is_sent = false;
	char name[16];
	int r = 0;

	if (store->n_most == 0)
		return 0;
	/* The ledger first: alone it still tells what it was, and a guest that was arriving is undone. */
	if (!item->has_ledger) {
		item_name(item, 'l', name);
		r = manager_keep(name, item->ledger);
		item->has_ledger = is_sent = r == 0;
	}
	if (r == 0 && !item->has_bundle) {
		item_name(item, 'b', name);
		r = manager_keep(name, item->bundle);
		item->has_bundle = is_sent = r == 0;
	}
	return r == 0 && is_sent ? manager_barrier() : r;
}

static int item_make(struct store *store, struct ufd_pager_guest *guest, struct item **ret)
{
	struct item *item;
	uint32_t number;
	int r;

	r = number_choose(store, &number);
	if (r < 0)
		return r;
	item = item_add(store, number);
	if (!item)
		return -ENOMEM;
	r = fd_duplicate(&item->ledger, ufd_pager_guest_ledger(guest));
	if (r < 0) {
		item_remove(store, item);
		return r;
	}
	*ret = item;
	return 0;
}

static int item_fill(struct store *store, struct item *item, struct ufd_pager_guest *guest)
{
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n = 0;
	int r;

	r = ufd_pager_guest_handles(guest, handles, UFD_MAX_HANDLES, &n);
	if (r == 0 && item->bundle < 0)
		r = bundle_new(&item->bundle);
	if (r == 0)
		r = bundle_write(item->bundle, handles, n);
	return r == 0 ? item_send(store, item) : r;
}

static void ask_readers(const struct store *store, const struct item *item)
{
	if (store->min_reader && item->is_ours)
		(void)ledger_fd_set_min_reader(item->ledger, store->min_reader);
}

void store_set_min_reader(struct store *store, uint32_t layout)
{
	const struct item *item;

	store->min_reader = layout;
	LIST_FOREACH(item, &store->item_list, item_link)
	ask_readers(store, item);
}

/*
 * What could not be adopted of a guest that is here again. Of the pages that are filled and written from
 * now on it knows nothing, so nobody may ever adopt it.
 */
static void drop_superseded(struct store *store, const struct item *item)
{
	struct item *other, *next;

	for (other = LIST_FIRST(&store->item_list); other; other = next) {
		next = LIST_NEXT(other, item_link);
		if (!other->is_left || other == item)
			continue;
		if (other->bundle < 0 ? !left_has_same_name(other->ledger, item->ledger)
				      : !left_has_same_uffd(other->bundle, item->bundle))
			continue;
		remove_file(store, other->ledger);
		item_remove(store, other);
	}
}

int store_keep(struct store *store, struct ufd_pager_guest *guest,
	       char number[static STORE_NUMBER_BYTES])
{
	struct item *item = item_of_text(store, number);
	bool is_new = !item;
	int r = 0;

	if (is_new)
		r = item_make(store, guest, &item);
	if (r < 0)
		return r;
	r = item_fill(store, item, guest);
	if (r < 0) {
		if (is_new)
			item_remove(store, item);
		return r;
	}
	if (!item->is_ours) {
		item->is_ours = true;
		ask_readers(store, item);
	}
	drop_superseded(store, item);
	if (is_new && store->n_most && store->directory)
		shelf_remove_older(store->shelf, ufd_pager_guest_name(guest), item->ledger);
	number_print(item->number, number);
	return 0;
}

void store_drop(struct store *store, const char *number)
{
	struct item *item = item_of_text(store, number);

	if (!item)
		return;
	remove_file(store, item->ledger);
	item_remove(store, item);
}

int store_park(struct store *store, const char *guest_name, const char *number)
{
	const struct item *item = item_of_text(store, number);
	struct stat directory, ledger;

	if (!store->directory || !item)
		return 0;
	if (fstat(store->shelf, &directory) < 0 || fstat(item->ledger, &ledger) < 0)
		return -errno;
	if (directory.st_dev == ledger.st_dev && ledger.st_nlink > 0)
		return 0; /* it is a file there */
	return shelf_copy(store->shelf, item->ledger, guest_name);
}

int store_list(const struct store *store, struct store_fd **ret, size_t *ret_n)
{
	size_t n_all = store->n_items + sockets_n(store->sockets);
	struct store_fd *list = calloc(2 * n_all + 1, sizeof(*list));
	const struct item *item;
	size_t n = 0;

	if (!list)
		return -ENOMEM;
	LIST_FOREACH(item, &store->item_list, item_link)
	{
		if (item->ledger >= 0) {
			item_name(item, 'l', list[n].name);
			list[n++].fd = item->ledger;
		}
		if (item->bundle >= 0) {
			item_name(item, 'b', list[n].name);
			list[n++].fd = item->bundle;
		}
	}
	*ret = list;
	*ret_n = n + sockets_list(store->sockets, list + n);
	return 0;
}
