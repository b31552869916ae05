/* Any bytes as the manifest. */
#include <stdlib.h>
#include <string.h>

#include "manifest.h"
#include "options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct manifest manifest;
	struct failure failure = { 0 };
	struct tmpfs_options options;

	if (manifest_parse(&manifest, data, size, &failure) < 0) {
		if (failure.reason != FAIL_MANIFEST || strlen(failure.text) > TEXT_MAX)
			abort();
		return 0;
	}
	/* What was accepted keeps its promises. */
	if (manifest.process.args.count == 0 || manifest.process.args.items[manifest.process.args.count] != NULL ||
	    manifest.disk.payload_offset + manifest.disk.payload_size > manifest.disk.data_blocks * DISK_BLOCK)
		abort();
	for (size_t i = 0; i < manifest.mount_count; i++)
		(void)options_parse(&options, manifest.mounts[i].options);
	return 0;
}
