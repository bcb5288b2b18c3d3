/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listening sockets that outlive us.
 *
 * Theory of operation: what is kept of one is a file (a memfd, one of the directory, or both) that begins
 * with the count, in digits of fixed width, and goes on with the text. It is written whole before it has
 * a name; afterwards only the count is written, in one piece of one page, which a SIGKILL does not
 * halve. The lock is held for moments only, never while the manager is waited for.
 */
#include "store/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/units.h"
#include "store/manager.h"
#include "store/number.h"
#include "store/store.h"

#define COUNT_BYTES    21 /* twenty digits and a newline */
#define MAX_TEXT_BYTES (64 * KIB)
#define SUFFIX	       ".handoff"

struct item {
	LIST_ENTRY(item) item_link;
	uint32_t number;
	int fd;	    /* owned; the socket; -EBADF: none was left */
	int memory; /* owned; the text as the manager has it; -EBADF: it has none */
	int file;   /* owned; the text in the directory; -EBADF: there is none */
};

struct sockets {
	pthread_mutex_t lock;
	LIST_HEAD(, item) item_list;
	size_t n_items;
	int shelf; /* borrowed */
	bool has_manager;
};

void stored_sockets_free(struct stored_socket *stored, size_t n_stored)
{
	for (size_t i = 0; i < n_stored; i++) {
		closep(&stored[i].fd);
		free(stored[i].text);
	}
	free(stored);
}

int sockets_new(struct sockets **ret, int shelf, bool has_manager)
{
	struct sockets *sockets = calloc(1, sizeof(*sockets));

	if (!sockets)
		return -ENOMEM;
	pthread_mutex_init(&sockets->lock, NULL);
	LIST_INIT(&sockets->item_list);
	sockets->shelf = shelf;
	sockets->has_manager = has_manager;
	*ret = sockets;
	return 0;
}

static void item_free(struct sockets *sockets, struct item *item)
{
	LIST_REMOVE(item, item_link);
	sockets->n_items--;
	closep(&item->fd);
	closep(&item->memory);
	closep(&item->file);
	free(item);
}

struct sockets *sockets_free(struct sockets *sockets)
{
	struct item *item;

	if (!sockets)
		return NULL;
	while ((item = LIST_FIRST(&sockets->item_list)))
		item_free(sockets, item);
	pthread_mutex_destroy(&sockets->lock);
	free(sockets);
	return NULL;
}

static struct item *item_find(struct sockets *sockets, uint32_t number)
{
	struct item *item;

	LIST_FOREACH(item, &sockets->item_list, item_link)
	if (item->number == number)
		return item;
	return NULL;
}

static struct item *item_add(struct sockets *sockets, uint32_t number)
{
	struct item *item = calloc(1, sizeof(*item));

	if (!item)
		return NULL;
	item->number = number;
	item->fd = item->memory = item->file = -EBADF;
	LIST_INSERT_HEAD(&sockets->item_list, item, item_link);
	sockets->n_items++;
	return item;
}

static void fd_name(char kind, uint32_t number, char ret[static 16])
{
	char digits[STORE_NUMBER_BYTES];

	number_print(number, digits);
	snprintf(ret, 16, "%c%s", kind, digits);
}

static void file_name(uint32_t number, char ret[static 32])
{
	char digits[STORE_NUMBER_BYTES];

	number_print(number, digits);
	snprintf(ret, 32, "%s" SUFFIX, digits);
}

/* ---- what was left ---- */

static bool is_listening(int fd)
{
	int is = 0;
	socklen_t n = sizeof(is);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is, &n) == 0 && is;
}

bool sockets_offer(struct sockets *sockets, const char *name, int fd)
{
	struct item *item;
	uint32_t number;
	struct stat info;
	int *place;

	if ((name[0] != 'h' && name[0] != 'd') || !number_parse(name + 1, &number))
		return false;
	item = item_find(sockets, number);
	if (!item)
		item = item_add(sockets, number);
	place = item ? (name[0] == 'h' ? &item->fd : &item->memory) : NULL;
	if (!place || *place >= 0 ||
	    (name[0] == 'h' ? !is_listening(fd) : fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))) {
		close(fd); /* the manager still has it */
		return true;
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	*place = fd;
	return true;
}

/* Return: 0, -EBADMSG, -errno. */
static int read_text(int fd, char **ret, uint64_t *ret_count)
{
	_cleanup_(freep) char *text = calloc(1, MAX_TEXT_BYTES + 1);
	unsigned long long count;
	int n_count = 0;
	ssize_t n;

	if (!text)
		return -ENOMEM;
	n = pread(fd, text, MAX_TEXT_BYTES, 0);
	if (n < 0)
		return -errno;
	if (n <= COUNT_BYTES || sscanf(text, "%20llu%n", &count, &n_count) != 1 ||
	    n_count != COUNT_BYTES - 1 || text[COUNT_BYTES - 1] != '\n')
		return -EBADMSG;
	memmove(text, text + COUNT_BYTES, (size_t)n - COUNT_BYTES + 1);
	*ret = TAKE_PTR(text);
	*ret_count = count;
	return 0;
}

/* Those of the directory, beside what came as fds. */
static int add_files(struct sockets *sockets)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int fd;

	if (sockets->shelf < 0)
		return 0;
	fd = openat(sockets->shelf, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		closep(&fd);
		return -errno;
	}
	while ((entry = readdir(dir))) {
		char digits[STORE_NUMBER_BYTES] = "";
		size_t n = strcspn(entry->d_name, ".");
		struct item *item;
		uint32_t number;

		if (n >= sizeof(digits) || strcmp(entry->d_name + n, SUFFIX) != 0)
			continue;
		memcpy(digits, entry->d_name, n);
		if (!number_parse(digits, &number))
			continue;
		item = item_find(sockets, number);
		if (!item)
			item = item_add(sockets, number);
		if (!item)
			return -ENOMEM;
		item->file = openat(sockets->shelf, entry->d_name,
				    O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	}
	return 0;
}

static int take_item(struct item *item, struct stored_socket *ret)
{
	struct stored_socket stored = { .number = item->number, .fd = -EBADF };
	int r = read_text(item->memory >= 0 ? item->memory : item->file, &stored.text,
			  &stored.count);

	if (r == 0 && item->fd >= 0)
		r = fd_duplicate(&stored.fd, item->fd);
	if (r < 0) {
		free(stored.text);
		return r;
	}
	*ret = stored;
	return 0;
}

int sockets_take(struct sockets *sockets, struct stored_socket **ret, size_t *ret_n)
{
	struct stored_socket *stored;
	struct item *item, *next;
	size_t n = 0;
	int r = add_files(sockets);

	if (r < 0)
		return r;
	stored = calloc(sockets->n_items + 1, sizeof(*stored));
	if (!stored)
		return -ENOMEM;
	for (item = LIST_FIRST(&sockets->item_list); item; item = next) {
		next = LIST_NEXT(item, item_link);
		if (take_item(item, &stored[n]) == 0)
			n++;
		else
			sockets_drop(sockets, item->number); /* nobody knows what it is for */
	}
	*ret = stored;
	*ret_n = n;
	return 0;
}

/* ---- keeping ---- */

static int write_text(int fd, const char *text, uint64_t count)
{
	char digits[COUNT_BYTES + 1];
	int r;

	snprintf(digits, sizeof(digits), "%020llu\n", (unsigned long long)count);
	r = fd_write_all(fd, digits, COUNT_BYTES);
	return r < 0 ? r : fd_write_all(fd, text, strlen(text));
}

static int make_memory(const char *text, uint64_t count, int *ret)
{
	_cleanup_(closep) int fd = memfd_create("ufd-handoff", MFD_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = write_text(fd, text, count);
	if (r == 0)
		*ret = TAKE_FD(fd);
	return r;
}

/* It gets its name when it is whole. */
static int make_file(const struct sockets *sockets, uint32_t number, const char *text,
		     uint64_t count, int *ret)
{
	char name[32], new_name[40];
	_cleanup_(closep) int fd = -EBADF;
	int r;

	file_name(number, name);
	snprintf(new_name, sizeof(new_name), "%s.new", name);
	(void)unlinkat(sockets->shelf, new_name, 0);
	fd = openat(sockets->shelf, new_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return -errno;
	r = write_text(fd, text, count);
	if (r == 0 && renameat(sockets->shelf, new_name, sockets->shelf, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(sockets->shelf, new_name, 0);
	else
		*ret = TAKE_FD(fd);
	return r;
}

/* The text first: alone it still tells what is to be made anew. */
static int send_item(uint32_t number, int memory, int fd)
{
	char name[16];
	int r;

	fd_name('d', number, name);
	r = manager_keep(name, memory);
	if (r == 0) {
		fd_name('h', number, name);
		r = manager_keep(name, fd);
	}
	return r == 0 ? manager_barrier() : r;
}

int sockets_keep(struct sockets *sockets, int fd, const char *text, uint64_t count,
		 uint32_t *ret_number)
{
	struct item *item;
	uint32_t number = 0;
	int r;

	if (strlen(text) > MAX_TEXT_BYTES - COUNT_BYTES)
		return -EMSGSIZE;
	pthread_mutex_lock(&sockets->lock);
	while (item_find(sockets, number))
		number++;
	item = item_add(sockets, number);
	pthread_mutex_unlock(&sockets->lock);
	if (!item)
		return -ENOMEM;
	/* nobody else knows the number: what is in the item is ours until we return */
	r = fd_duplicate(&item->fd, fd);
	if (r == 0)
		r = make_memory(text, count, &item->memory);
	if (r == 0 && sockets->shelf >= 0)
		r = make_file(sockets, number, text, count, &item->file);
	if (r == 0 && sockets->has_manager)
		r = send_item(number, item->memory, item->fd);
	if (r < 0) {
		sockets_drop(sockets, number);
		return r;
	}
	*ret_number = number;
	return 0;
}

void sockets_count(struct sockets *sockets, uint32_t number, uint64_t count)
{
	char digits[COUNT_BYTES + 1];
	struct item *item;

	snprintf(digits, sizeof(digits), "%020llu\n", (unsigned long long)count);
	pthread_mutex_lock(&sockets->lock);
	item = item_find(sockets, number);
	/* tmpfs, and a page that is there: this cannot fail */
	if (item && item->memory >= 0)
		(void)!pwrite(item->memory, digits, COUNT_BYTES, 0);
	if (item && item->file >= 0)
		(void)!pwrite(item->file, digits, COUNT_BYTES, 0);
	pthread_mutex_unlock(&sockets->lock);
}

void sockets_drop(struct sockets *sockets, uint32_t number)
{
	struct item *item;
	char name[32];

	pthread_mutex_lock(&sockets->lock);
	item = item_find(sockets, number);
	if (item && sockets->has_manager) {
		fd_name('h', number, name);
		manager_remove(name);
		fd_name('d', number, name);
		manager_remove(name);
	}
	if (item && sockets->shelf >= 0) {
		file_name(number, name);
		(void)unlinkat(sockets->shelf, name, 0);
	}
	if (item)
		item_free(sockets, item);
	pthread_mutex_unlock(&sockets->lock);
}

void sockets_add_up(struct sockets *sockets, size_t *n_fds, size_t *n_name_bytes)
{
	const struct item *item;
	char name[16];

	pthread_mutex_lock(&sockets->lock);
	LIST_FOREACH(item, &sockets->item_list, item_link)
	{
		if (!sockets->has_manager)
			break;
		fd_name('h', item->number, name);
		*n_fds += 2;
		*n_name_bytes += 2 * (strlen(name) + 1);
	}
	pthread_mutex_unlock(&sockets->lock);
}

size_t sockets_n(struct sockets *sockets)
{
	size_t n;

	pthread_mutex_lock(&sockets->lock);
	n = sockets->n_items;
	pthread_mutex_unlock(&sockets->lock);
	return n;
}

size_t sockets_list(struct sockets *sockets, struct store_fd *ret)
{
	const struct item *item;
	size_t n = 0;

	pthread_mutex_lock(&sockets->lock);
	LIST_FOREACH(item, &sockets->item_list, item_link)
	{
		if (item->fd < 0 || item->memory < 0)
			continue;
		fd_name('h', item->number, ret[n].name);
		ret[n++].fd = item->fd;
		fd_name('d', item->number, ret[n].name);
		ret[n++].fd = item->memory;
	}
	pthread_mutex_unlock(&sockets->lock);
	return n;
}
