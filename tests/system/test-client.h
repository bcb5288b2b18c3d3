/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A real ufdd, a guest whose memory was saved to an image, and threads that compare every byte. */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/hugepages.h"
#include "support/pattern.h"
#include "unit/test-client.h"

#define SEED	  UINT64_C(20)
#define BLOCK	  PATTERN_BLOCK_BYTES
#define LENGTH	  (16 * MIB) /* of the image, and of a memory of huge pages */
#define N_BLOCKS  (LENGTH / BLOCK)
#define N_THREADS 4
#define PATIENCE  (20 * NSEC_PER_SEC)
#define N_POOL	  24 /* huge pages: each test that runs maps at most this many */

enum kind { SHMEM, ANON, HUGETLB };
static const enum kind kinds[] __attribute__((unused)) = { SHMEM, ANON, HUGETLB };

struct scene {
	char folder[64];
	char socket[96];
	pid_t ufdd;
	bool has_state; /* it keeps what a next one needs, in the folder */
	int image;	/* what the guest's memory was saved to */
	struct ufd_client *client;
	char heard[64];
};

/* ---- the daemon ------------------------------------------------------------------------------ */

/* Beside this program in the build directory. */
static inline void find_ufdd(char ret[512])
{
	ssize_t n = readlink("/proc/self/exe", ret, 400);

	ck_assert_int_gt(n, 0);
	ret[n] = '\0';
	*strrchr(ret, '/') = '\0';
	strcat(ret, "/../../daemon/ufdd");
}

static inline bool can_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

static inline void start_ufdd(struct scene *scene)
{
	const struct timespec pause = { .tv_nsec = 5 * NSEC_PER_MSEC };
	uint64_t deadline_ns = clock_now_ns() + PATIENCE;
	char program[512], log[96];
	pid_t parent = getpid();

	find_ufdd(program);
	snprintf(log, sizeof(log), "%s/log", scene->folder);
	scene->ufdd = fork();
	ck_assert_int_ge(scene->ufdd, 0);
	if (scene->ufdd == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || fd < 0)
			_exit(1);
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		execl(program, "ufdd", "--socket", scene->socket,
		      scene->has_state ? "--state-dir" : NULL, scene->folder, NULL);
		_exit(127);
	}
	while (!can_connect(scene->socket)) {
		ck_assert_msg(waitpid(scene->ufdd, NULL, WNOHANG) == 0, "ufdd ended: see %s", log);
		ck_assert_msg(clock_now_ns() < deadline_ns, "ufdd does not listen");
		nanosleep(&pause, NULL);
	}
}

static inline void kill_ufdd(struct scene *scene)
{
	kill(scene->ufdd, SIGKILL);
	waitpid(scene->ufdd, NULL, 0);
	scene->ufdd = 0;
}

/* ---- the guest ------------------------------------------------------------------------------- */

static inline int make_image(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	char block[BLOCK];

	ck_assert_int_eq(ftruncate(fd, LENGTH), 0);
	for (uint64_t i = 0; i < N_BLOCKS; i++) {
		if (pattern_is_zero(SEED, i))
			continue;
		pattern_write(block, SEED, i, 0);
		ck_assert_int_eq(pwrite(fd, block, BLOCK, (off_t)(i * BLOCK)), BLOCK);
	}
	return fd;
}

static inline void on_event(struct ufd_client *client, uint32_t event, void *userdata)
{
	struct scene *scene = userdata;

	strncat(scene->heard, &"-LRAXS"[event], 1);
}

/* ufdd, an image, and a client that fetches only what is touched. */
static inline void scene_init_flags(struct scene *scene, uint32_t flags)
{
	const char *error = "";
	int r;

	*scene = (struct scene){ .folder = "/dev/shm/ufd-test-client.XXXXXX" };
	ck_assert_ptr_nonnull(mkdtemp(scene->folder));
	snprintf(scene->socket, sizeof(scene->socket), "%s/socket", scene->folder);
	scene->image = make_image();
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .socket_path = scene->socket,
		 .on_event = on_event, .userdata = scene, .background = UFD_CLIENT_OFF,
		 .window_bytes = UFD_CLIENT_NO_WINDOW,
		 .flags = flags | (geteuid() == 0 ? 0 : UFD_CLIENT_USER_MODE));
	r = ufd_client_new(&scene->client, &opts, &error);
	if (r == -ENOSYS || r == -EPERM)
		unit_skip("%s", error);
	ck_assert_msg(r == 0, "%s", error);
	start_ufdd(scene);
}

static inline void scene_init(struct scene *scene)
{
	scene_init_flags(scene, 0);
}

/* With a daemon that finds its guests again when it has died; or one that does not. */
static inline void scene_init_state(struct scene *scene, bool has_state)
{
	scene_init(scene);
	if (!has_state)
		return;
	kill_ufdd(scene);
	scene->has_state = true;
	start_ufdd(scene);
}

static inline void scene_done(struct scene *scene)
{
	char command[128];

	if (scene->ufdd > 0)
		kill_ufdd(scene);
	ufd_client_free(scene->client);
	close(scene->image);
	snprintf(command, sizeof(command), "rm -rf '%s'", scene->folder);
	if (system(command) != 0)
		ck_abort_msg("%s failed", command);
}

#define EXPECT_OK(scene, call) \
	ck_assert_msg((call) == 0, "%s: %s", #call, ufd_client_error((scene)->client))

struct ram {
	enum kind kind;
	char *bytes;
	int backing; /* -EBADF for anonymous memory */
	uint64_t page_bytes;
	uint64_t length;
};

static inline uint64_t ram_n_blocks(const struct ram *ram)
{
	return ram->length / BLOCK;
}

static inline void ram_done(struct ram *ram)
{
	munmap(ram->bytes, ram->length);
	closep(&ram->backing);
}

/* Memory of some kind, mapped but not described. */
static inline struct ram map_ram(enum kind kind)
{
	bool is_short = getenv("UFD_TEST_SHORT") && kind != HUGETLB;
	struct ram ram = { .kind = kind, .backing = -EBADF, .length = is_short ? 4 * MIB : LENGTH };
	int flags = kind == ANON ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	ram.page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	if (kind == HUGETLB && !hugepages_are_reserved())
		unit_skip("no pool of 2 MiB pages");
	if (kind == HUGETLB)
		ram.page_bytes = HUGE_BYTES;
	if (kind != ANON) {
		ram.backing = memfd_create("ram",
					   MFD_CLOEXEC | (kind == HUGETLB ? MFD_HUGETLB : 0));
		ck_assert_int_eq(ftruncate(ram.backing, (off_t)ram.length), 0);
	}
	ram.bytes = mmap(NULL, ram.length, PROT_READ | PROT_WRITE, flags, ram.backing, 0);
	ck_assert_ptr_ne(ram.bytes, MAP_FAILED);
	/* Before Linux 6.7 the stack of a thread may lie beside it in one mapping, and get a huge page that reaches in. */
	if (kind == ANON)
		madvise(ram.bytes, ram.length, MADV_NOHUGEPAGE);
	return ram;
}

static inline void describe(struct scene *scene, const struct ram *ram, const char *name,
			    const char *source)
{
	UFD_OPTS(ufd_client_memory_opts, opts, .name = name, .source = source,
		 .address = ram->bytes, .length = ram->length, .backing = ram->backing,
		 .source_fd = strcmp(source, "file:") == 0 ? scene->image : 0);

	EXPECT_OK(scene, ufd_client_add_memory(scene->client, &opts));
}

static inline void expect_block(const struct ram *ram, uint64_t block, uint32_t generation)
{
	ck_assert_msg(pattern_is_right(ram->bytes + block * BLOCK, SEED, block, generation),
		      "block %llu is wrong", (unsigned long long)block);
}

static inline void expect_zero(const struct ram *ram, uint64_t offset, uint64_t length)
{
	for (uint64_t i = offset; i < offset + length; i += BLOCK)
		ck_assert_msg(pattern_is_all_zero(ram->bytes + i), "offset %#llx is not zero",
			      (unsigned long long)i);
}

static inline void expect_all(const struct ram *ram)
{
	for (uint64_t i = 0; i < ram_n_blocks(ram); i++)
		expect_block(ram, i, 0);
}

static inline void discard(struct scene *scene, const struct ram *ram, uint64_t offset,
			   uint64_t length)
{
	EXPECT_OK(scene, ufd_client_note_discard(scene->client, "ram", offset, length));
	if (ram->kind == ANON)
		ck_assert_int_eq(madvise(ram->bytes + offset, length, MADV_DONTNEED), 0);
	else
		ck_assert_int_eq(fallocate(ram->backing, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					   (off_t)offset, (off_t)length),
				 0);
}

/* ---- vCPUs: threads that compare every block, each from its own place on --------------------- */

struct vcpus {
	const struct ram *ram;
	pthread_t threads[N_THREADS];
	atomic_uint_fast64_t n_compared;
	atomic_uint_fast64_t n_wrong;
	atomic_uint n_running;
};

struct vcpu {
	struct vcpus *vcpus;
	uint64_t first_block;
};

static inline void *run_vcpu(void *argument)
{
	struct vcpu *vcpu = argument;
	struct vcpus *vcpus = vcpu->vcpus;
	uint64_t n_blocks = ram_n_blocks(vcpus->ram);

	for (uint64_t i = 0; i < n_blocks; i++) {
		uint64_t block = (vcpu->first_block + i * 1021) %
				 n_blocks; /* a prime: all of them */
		const char *at = vcpus->ram->bytes + block * BLOCK;

		vcpus->n_wrong += !pattern_is_right(at, SEED, block, 0);
		vcpus->n_compared++;
	}
	vcpus->n_running--;
	free(vcpu);
	return NULL;
}

static inline void start_vcpus(struct vcpus *vcpus, const struct ram *ram)
{
	*vcpus = (struct vcpus){ .ram = ram, .n_running = N_THREADS };
	for (unsigned int i = 0; i < N_THREADS; i++) {
		struct vcpu *vcpu = malloc(sizeof(*vcpu));

		*vcpu = (struct vcpu){ vcpus, i * ram_n_blocks(ram) / N_THREADS };
		ck_assert_int_eq(pthread_create(&vcpus->threads[i], NULL, run_vcpu, vcpu), 0);
	}
}

/* The VMM's loop, until @has_happened; or until nobody can wait that long. */
static inline void loop_until(struct scene *scene, bool (*has_happened)(void *), void *argument)
{
	uint64_t deadline_ns = clock_now_ns() + PATIENCE;

	while (!has_happened(argument)) {
		struct pollfd entry = { .fd = ufd_client_fd(scene->client), .events = POLLIN };

		if (poll(&entry, 1, 1) > 0)
			ck_assert_int_eq(ufd_client_dispatch(scene->client), 0);
		ck_assert_msg(clock_now_ns() < deadline_ns, "told '%s': %s", scene->heard,
			      ufd_client_error(scene->client));
	}
}

static inline bool have_stopped(void *argument)
{
	return ((struct vcpus *)argument)->n_running == 0;
}

static inline bool are_at_work(void *argument)
{
	return ((struct vcpus *)argument)->n_compared >= 16;
}

static inline bool is_back(void *argument)
{
	return strpbrk(((struct scene *)argument)->heard, "RA") != NULL;
}

static inline void join_vcpus(struct scene *scene, struct vcpus *vcpus)
{
	loop_until(scene, have_stopped, vcpus);
	for (unsigned int i = 0; i < N_THREADS; i++)
		pthread_join(vcpus->threads[i], NULL);
	ck_assert_uint_eq(vcpus->n_compared, N_THREADS * ram_n_blocks(vcpus->ram));
	ck_assert_uint_eq(vcpus->n_wrong, 0);
}
