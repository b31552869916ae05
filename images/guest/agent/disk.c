#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "boot.h"
#include "copy.h"
#include "memory.h"
#include "nodes.h"

#define SECTOR 512u
#define VERITY "verified"
#define LOWER "/lower"
#define WRITABLE "/writable"
#define WAIT_MS 10000
#define STEP_MS 2

static int find_disk(dev_t *device, struct failure *failure)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/sys/block/%s/dev", boot_disk());
	for (int waited = 0; !read_device(path, device); waited += STEP_MS) {
		if (waited >= WAIT_MS)
			return fail(failure, FAIL_INTEGRITY, "there is no virtio disk");
		sleep_ms(STEP_MS);
	}
	return 0;
}

/* Checking and decrypting the whole disk waits for the key, so that each byte is looked at once. */
static int prepare_memory(struct disk *disk, dev_t device, struct failure *failure)
{
	disk->in_memory = true;
	if (mknod("/dev/disk", S_IFBLK | 0600, device) < 0 ||
	    (disk->source = open("/dev/disk", O_RDONLY | O_DIRECT | O_CLOEXEC)) < 0)
		return fail_errno(failure, FAIL_INTEGRITY, "cannot open the disk");
	return 0;
}

int disk_verify(struct disk *disk, const struct disk_layout *layout, struct failure *failure)
{
	char parameters[512], root[2 * 32 + 1], salt[2 * 32 + 1];
	dev_t device;

	if (find_disk(&device, failure) < 0)
		return -1;
	if (dm_open(&disk->dm) < 0 || !dm_has_target(&disk->dm, "verity"))
		return prepare_memory(disk, device, failure);
	sodium_bin2hex(root, sizeof(root), layout->root_hash, sizeof(layout->root_hash));
	sodium_bin2hex(salt, sizeof(salt), layout->salt, sizeof(layout->salt));
	/* Corruption is an I/O error by default. Never check_at_most_once: the host owns the disk all the time. */
	(void)snprintf(parameters, sizeof(parameters), "1 %u:%u %u:%u %u %u %llu %llu sha256 %s %s", major(device),
		       minor(device), major(device), minor(device), DISK_BLOCK, DISK_BLOCK,
		       (unsigned long long)layout->data_blocks, (unsigned long long)layout->hash_start_block, root,
		       salt);
	if (dm_create(&disk->dm, VERITY, "verity", parameters, layout->data_blocks * (DISK_BLOCK / SECTOR),
		      &disk->verified) < 0)
		return fail_errno(failure, FAIL_INTEGRITY,
				  "dm-verity refuses the disk: it is shorter than the manifest says, or another one");
	return 0;
}

bool disk_is_intact(const struct disk *disk)
{
	return disk->in_memory || dm_status_is(&disk->dm, VERITY, "V");
}

static int decrypt(const struct disk *disk, const struct disk_layout *layout, const uint8_t *key, dev_t *device,
		   struct failure *failure)
{
	char parameters[512], hex[2 * DISK_KEY_SIZE + 1];
	int result;

	sodium_bin2hex(hex, sizeof(hex), key, DISK_KEY_SIZE);
	(void)snprintf(parameters, sizeof(parameters),
		       "aes-xts-plain64 %s 0 %u:%u %llu 2 sector_size:%u no_read_workqueue", hex, major(disk->verified),
		       minor(disk->verified), (unsigned long long)layout->payload_offset / SECTOR, DISK_BLOCK);
	sodium_memzero(hex, sizeof(hex));
	result = dm_create(&disk->dm, "plain", "crypt", parameters, layout->payload_size / SECTOR, device);
	sodium_memzero(parameters, sizeof(parameters));
	if (result < 0)
		return fail_errno(failure, FAIL_DISK_KEY, "dm-crypt refuses the disk");
	return 0;
}

static int mount_lower(const struct disk *disk, const struct disk_layout *layout, dev_t device,
		       struct failure *failure)
{
	if (mknod("/dev/root", S_IFBLK | 0600, device) < 0 || mkdir(LOWER, 0755) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make the mount point of the disk");
	if (mount("/dev/root", LOWER, "erofs", MS_RDONLY, NULL) == 0)
		return 0;
	if (!disk_is_intact(disk))
		return fail(failure, FAIL_INTEGRITY, "the disk was changed: a block does not fit the root hash");
	if (layout->encrypted && errno == EINVAL)
		return fail(failure, FAIL_DISK_KEY, "the released key does not open the disk");
	return fail_errno(failure, FAIL_MOUNT, "cannot mount the file system of the disk");
}

/* The root of an overlay has the owner and mode of its upper layer: make them those of the image. Its time is now. */
static int copy_attributes(const char *from, const char *to)
{
	struct stat status;

	if (stat(from, &status) < 0 || chown(to, status.st_uid, status.st_gid) < 0)
		return -1;
	return chmod(to, status.st_mode & 07777);
}

/* Returns 1 if the kernel has no overlayfs. */
static int mount_overlay(struct failure *failure)
{
	if (mount("tmpfs", WRITABLE, "tmpfs", 0, "mode=0700") < 0 || mkdir(WRITABLE "/upper", 0755) < 0 ||
	    mkdir(WRITABLE "/work", 0755) < 0 || copy_attributes(LOWER, WRITABLE "/upper") < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make the writable layer");
	if (mount("overlay", ROOT_DIRECTORY, "overlay", 0,
		  "lowerdir=" LOWER ",upperdir=" WRITABLE "/upper,workdir=" WRITABLE "/work") == 0)
		return 0;
	if (errno == ENODEV && umount2(WRITABLE, 0) == 0)
		return 1;
	return fail_errno(failure, FAIL_MOUNT, "cannot mount the overlay");
}

/* Room for the image, and for the workload half of what is left, as a tmpfs has by default. */
static int mount_room(struct failure *failure)
{
	unsigned long long size, free_bytes;
	struct statfs lower;
	struct sysinfo info;
	char options[64];

	if (statfs(LOWER, &lower) < 0 || sysinfo(&info) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot tell how large the file system is");
	size = (unsigned long long)lower.f_blocks * (unsigned long long)lower.f_bsize;
	if (memory_require(size, "the kernel has no overlayfs, so the file system is copied into memory", failure) < 0)
		return -1;
	free_bytes = (unsigned long long)info.freeram * info.mem_unit;
	if (free_bytes > size)
		size += (free_bytes - size) / 2;
	(void)snprintf(options, sizeof(options), "mode=0700,size=%llu", size);
	if (mount("tmpfs", WRITABLE, "tmpfs", 0, options) < 0 || mkdir(WRITABLE "/root", 0755) < 0 ||
	    mkdir(WRITABLE "/links", 0700) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make the root in memory");
	return 0;
}

/* The disk is not needed afterwards: what it takes of the memory is free again. */
static int mount_copy(const struct disk *disk, struct failure *failure)
{
	if (mount_room(failure) < 0)
		return -1;
	if (copy_tree(LOWER, WRITABLE "/root", WRITABLE "/links", failure) < 0) {
		if (!disk_is_intact(disk)) {
			failure->reason = 0;
			(void)fail(failure, FAIL_INTEGRITY, "the disk was changed: a block does not fit the root hash");
		}
		return -1;
	}
	if (mount(WRITABLE "/root", ROOT_DIRECTORY, NULL, MS_BIND, NULL) < 0 || umount2(LOWER, 0) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot mount the root in memory");
	return 0;
}

static int mount_root(struct disk *disk, struct failure *failure)
{
	int result;

	if (mkdir(WRITABLE, 0700) < 0 || mkdir(ROOT_DIRECTORY, 0755) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot make the mount points of the root");
	result = mount_overlay(failure);
	if (result <= 0)
		return result;
	disk->is_copy = true;
	return mount_copy(disk, failure);
}

/* Mount the file system that the disk holds once it is checked and decrypted in memory. */
static int mount_memory(const struct disk *disk, const struct disk_layout *layout, const uint8_t *key,
			struct failure *failure)
{
	int loop = memory_load(disk->source, layout, layout->encrypted ? key : NULL, failure), result;
	struct stat status;

	(void)close(disk->source);
	if (loop < 0)
		return -1;
	if (fstat(loop, &status) < 0)
		return fail_errno(failure, FAIL_MOUNT, "cannot tell the number of the loop device");
	result = mount_lower(disk, layout, status.st_rdev, failure);
	(void)close(loop); /* the mount holds it */
	return result;
}

static int mount_mapped(const struct disk *disk, const struct disk_layout *layout, const uint8_t *key,
			struct failure *failure)
{
	dev_t device = disk->verified;

	if (layout->encrypted && decrypt(disk, layout, key, &device, failure) < 0)
		return -1;
	return mount_lower(disk, layout, device, failure);
}

int disk_mount(struct disk *disk, const struct disk_layout *layout, const uint8_t *key, struct failure *failure)
{
	int result = disk->in_memory ? mount_memory(disk, layout, key, failure) :
				       mount_mapped(disk, layout, key, failure);

	return result < 0 ? -1 : mount_root(disk, failure);
}
