/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Process 1 of a machine with another kernel: this machine's files, one script, its exit status. */

/*
 * In the initrd lie this program and, in /modules, the kernel's modules, to be loaded in the order of
 * their names. The files of the machine outside come by virtiofs (tag `outside`); the script that the
 * kernel's command line names as job=PATH sees them all, but what it writes stays in memory and ends
 * with this machine. Only the script's own folder is the outside's in earnest: results go there.
 *
 * /dev/vda becomes /var/tmp, a file system on a disk. Whatever happens, the last line is `EXIT n`.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static _Noreturn void end(int status)
{
	printf("\nEXIT %d\n", status);
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void must(long r, const char *what)
{
	if (r >= 0)
		return;
	printf("%s: %s\n", what, strerror(errno));
	end(125);
}

static void must_mount(const char *what, const char *where, const char *type, const char *options)
{
	(void)mkdir(where, 0755);
	must(mount(what, where, type, 0, options), where);
}

static void load_modules(void)
{
	struct dirent **entries;
	int n = scandir("/modules", &entries, NULL, alphasort);

	must(n, "/modules");
	must(chdir("/modules"), "/modules");
	for (int i = 0; i < n; i++) {
		int fd;

		if (entries[i]->d_name[0] == '.')
			continue;
		fd = open(entries[i]->d_name, O_RDONLY | O_CLOEXEC);
		must(fd, entries[i]->d_name);
		must(syscall(SYS_finit_module, fd, "", 0), entries[i]->d_name);
		close(fd);
	}
}

/* The outside's folder, where it is here, with what is written kept in /over/@name. */
static void mount_over(const char *folder, const char *name)
{
	char options[1024], where[512], layer[64];

	snprintf(layer, sizeof(layer), "/over/%s-upper", name);
	must(mkdir(layer, 0755), layer);
	snprintf(layer, sizeof(layer), "/over/%s-work", name);
	must(mkdir(layer, 0755), layer);
	snprintf(options, sizeof(options), "lowerdir=/outside%s,upperdir=/over/%s-upper,workdir=%s",
		 folder, name, layer);
	snprintf(where, sizeof(where), "/root%s", folder);
	must_mount("overlay", where, "overlay", options);
}

static void mount_all(void)
{
	must_mount("outside", "/outside", "virtiofs", NULL);
	must_mount("tmpfs", "/over", "tmpfs", "size=1g");
	mount_over("", "root");
	must_mount("proc", "/root/proc", "proc", NULL);
	must_mount("sysfs", "/root/sys", "sysfs", NULL);
	must_mount("devtmpfs", "/root/dev", "devtmpfs", NULL);
	must_mount("tmpfs", "/root/dev/shm", "tmpfs", "mode=1777");
	must_mount("devpts", "/root/dev/pts", "devpts", NULL);
	must_mount("tmpfs", "/root/tmp", "tmpfs", "mode=1777");
	must_mount("tmpfs", "/root/run", "tmpfs", "mode=0755");
	must_mount("cgroup2", "/root/sys/fs/cgroup", "cgroup2", NULL);
	/* what udev makes elsewhere: bash's <( ) wants the first */
	must(symlink("/proc/self/fd", "/root/dev/fd"), "/dev/fd");
	must(symlink("/proc/self/fd/0", "/root/dev/stdin"), "/dev/stdin");
	must(symlink("/proc/self/fd/1", "/root/dev/stdout"), "/dev/stdout");
	must(symlink("/proc/self/fd/2", "/root/dev/stderr"), "/dev/stderr");
	must_mount("/root/dev/vda", "/root/var/tmp", "ext4", NULL);
}

/* The value of job= on the kernel's command line. Lives as long as we do. */
static const char *find_job(void)
{
	static char line[4096];
	int fd = open("/root/proc/cmdline", O_RDONLY | O_CLOEXEC);
	char *job;

	must(fd, "/proc/cmdline");
	must(read(fd, line, sizeof(line) - 1), "/proc/cmdline");
	close(fd);
	job = strstr(line, " job=/");
	errno = EINVAL;
	must(job ? 0 : -1, "job=PATH on the kernel's command line");
	job += strlen(" job=");
	job[strcspn(job, " \n")] = '\0';
	return job;
}

static void enter(const char *job)
{
	char inside[4096], outside[4096], project[256];
	int n_folder = (int)(strrchr(job, '/') - job);

	/* /tmp is empty here, but for a project that lies in it. */
	if (!strncmp(job, "/tmp/", 5)) {
		snprintf(project, sizeof(project), "%.*s", (int)(5 + strcspn(job + 5, "/")), job);
		mount_over(project, "project");
	}
	snprintf(outside, sizeof(outside), "/outside%.*s", n_folder, job);
	snprintf(inside, sizeof(inside), "/root%.*s", n_folder, job);
	must(mount(outside, inside, NULL, MS_BIND, NULL), outside);
	must(chdir("/root"), "/root");
	must(mount(".", "/", NULL, MS_MOVE, NULL), "moving the root");
	must(chroot("."), "chroot");
}

static pid_t start(const char *job)
{
	pid_t pid = fork();

	must(pid, "fork");
	if (pid > 0)
		return pid;
	setsid();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("LANG", "C.UTF-8", 1);
	execl("/bin/bash", "bash", job, (char *)NULL);
	_exit(126);
}

int main(void)
{
	const char *job;
	int status = 0;
	pid_t pid;

	load_modules();
	mount_all();
	job = find_job();
	enter(job);
	pid = start(job);
	while (wait(&status) != pid)
		;
	end(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}
