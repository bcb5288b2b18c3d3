/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which open files may write behind the page tables, by what /proc says of them. */
#include "kernel/proc-fds.h"

#include <fcntl.h>

#include "support/unit.h"

static const struct {
	const char *target;
	unsigned int flags;
	uint32_t kind;
} files[] = {
	{ "/var/disk.qcow2", O_RDWR | O_DIRECT, PROC_HAZARD_DIRECT_IO },
	{ "/dev/nvme0n1", O_RDWR | O_DIRECT | O_CLOEXEC, PROC_HAZARD_DIRECT_IO },
	{ "/var/disk.qcow2", O_RDWR | O_SYNC, 0 },
	{ "/dev/null", O_RDWR, 0 },
	{ "pipe:[4711]", O_WRONLY | O_DIRECT, 0 }, /* packets */
	{ "anon_inode:[io_uring]", O_RDWR, PROC_HAZARD_IO_URING },
	{ "anon_inode:[eventfd]", O_RDWR, 0 },
	{ "anon_inode:[userfaultfd]", O_RDWR, 0 },
	{ "anon_inode:kvm-vm", O_RDWR, 0 },
	{ "/dev/vhost-net", O_RDWR, 0 }, /* copies */
	{ "/dev/vhost-vsock", O_RDWR, 0 },
	{ "/dev/vhost-scsi", O_RDWR, PROC_HAZARD_VHOST_SCSI },
	{ "/dev/vhost-vdpa-0", O_RDWR, PROC_HAZARD_VDPA },
	{ "/dev/vfio/vfio", O_RDWR, PROC_HAZARD_VFIO },
	{ "/dev/vfio/12", O_RDWR, PROC_HAZARD_VFIO },
	{ "/dev/vfio/devices/vfio0", O_RDWR, PROC_HAZARD_VFIO },
	{ "anon_inode:[vfio-device]", O_RDWR, PROC_HAZARD_VFIO },
	{ "/dev/iommu", O_RDWR, PROC_HAZARD_IOMMUFD },
	{ "/dev/infiniband/uverbs1", O_RDWR, PROC_HAZARD_RDMA },
	{ "socket:[99]", O_RDWR, 0 },
};

START_TEST(each_kind_of_file_is_known)
{
	ck_assert_msg(proc_fds_judge(files[_i].target, files[_i].flags) == files[_i].kind, "%s",
		      files[_i].target);
}
END_TEST

static const struct {
	const char *line;
	bool is_buffer;
	uint64_t address, length;
} lines[] = {
	{ "    0: 0x7f12345000/65536\n", true, 0x7f12345000, 65536 },
	{ "   17: 0x1000/4096\n", true, 0x1000, 4096 },
	{ "    1: <none>\n", false, 0, 0 },
	{ "    2: 0x1000/0\n", false, 0, 0 },
	{ "UserBufs:\t2\n", false, 0, 0 },
	{ "", false, 0, 0 },
};

START_TEST(a_registered_buffer_is_read_from_its_line)
{
	struct hva_range range = {};

	ck_assert_int_eq(proc_fds_parse_buffer(lines[_i].line, &range), lines[_i].is_buffer);
	ck_assert_uint_eq(range.start.v, lines[_i].address);
	ck_assert_uint_eq(range.length_bytes, lines[_i].length);
}
END_TEST

START_TEST(no_kind_is_both_brief_and_lasting)
{
	ck_assert_uint_eq(PROC_HAZARDS_BRIEF & PROC_HAZARDS_LASTING, 0);
	ck_assert_uint_eq(PROC_HAZARDS_BRIEF | PROC_HAZARDS_LASTING, 2 * PROC_HAZARD_RDMA - 1);
}
END_TEST

int main(void)
{
	return unit_run("proc-fds",
			(struct unit_test[]){
				UNIT_TABLE(each_kind_of_file_is_known, files),
				UNIT_TABLE(a_registered_buffer_is_read_from_its_line, lines),
				UNIT(no_kind_is_both_brief_and_lasting),
				{},
			});
}
