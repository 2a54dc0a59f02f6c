/*-------------------------------------------------------------------------
 *
 * full_disk.c
 *	  A disk that is full, for a server that a test starts with LD_PRELOAD.
 *
 * FULL_DISK names a file in the server's data directory.  While that file is
 * there, what it names has no room: data, wal, temporary, or several of them.
 *
 * The hard idea: a full disk refuses growth, and nothing else.  What a file
 * has can be overwritten, files can be made, renamed and removed; a call that
 * would write beyond the end of a file fails with ENOSPC.  A small file system
 * would do the same, but to mount one takes rights that a test has not.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE /* RTLD_NEXT, pwritev */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char *control_path;
static size_t directory_bytes; /* of control_path, the slash included */

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_posix_fallocate)(int, off_t, off_t);

/*
 * Find what we stand before.  Later would be too late: a signal handler may
 * write, and must not look for symbols.
 */
__attribute__((constructor)) static void
begin(void)
{
	const char *path = getenv("FULL_DISK");

	real_write = dlsym(RTLD_NEXT, "write");
	real_pwrite = dlsym(RTLD_NEXT, "pwrite");
	real_pwritev = dlsym(RTLD_NEXT, "pwritev");
	real_posix_fallocate = dlsym(RTLD_NEXT, "posix_fallocate");
	if (path != NULL && strrchr(path, '/') != NULL)
	{
		/* PostgreSQL writes the titles of its processes over its environment */
		control_path = strdup(path);
		directory_bytes = strrchr(path, '/') + 1 - path;
	}
}

/*
 * What a file of the data directory holds; NULL if it lies elsewhere.
 */
static const char *
contents_of(int fd)
{
	char link[64];
	char path[PATH_MAX];
	ssize_t bytes;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	bytes = readlink(link, path, sizeof(path) - 1);
	if (bytes < (ssize_t) directory_bytes || strncmp(path, control_path, directory_bytes) != 0)
		return NULL;
	path[bytes] = '\0';
	if (strstr(path + directory_bytes - 1, "/pg_wal/") != NULL)
		return "wal";
	if (strstr(path + directory_bytes - 1, "/pgsql_tmp/") != NULL)
		return "temporary";
	return "data";
}

/*
 * Whether a file can't be written up to this end.  Leaves errno alone.
 */
static bool
is_full(int fd, off_t end)
{
	int saved_errno = errno;
	struct stat status;
	const char *contents;
	char full[64] = "";
	int control;

	if (control_path != NULL && access(control_path, F_OK) == 0 && fstat(fd, &status) == 0 &&
		S_ISREG(status.st_mode) && end > status.st_size && (contents = contents_of(fd)) != NULL &&
		(control = open(control_path, O_RDONLY)) >= 0)
	{
		if (read(control, full, sizeof(full) - 1) < 0)
			full[0] = '\0';
		close(control);
		errno = saved_errno;
		return strstr(full, contents) != NULL;
	}
	errno = saved_errno;
	return false;
}

ssize_t
write(int fd, const void *bytes, size_t nbytes)
{
	off_t position = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);

	if (position >= 0 && is_full(fd, position + nbytes))
	{
		errno = ENOSPC;
		return -1;
	}
	return real_write(fd, bytes, nbytes);
}

ssize_t
pwrite(int fd, const void *bytes, size_t nbytes, off_t position)
{
	if (is_full(fd, position + nbytes))
	{
		errno = ENOSPC;
		return -1;
	}
	return real_pwrite(fd, bytes, nbytes, position);
}

ssize_t
pwritev(int fd, const struct iovec *parts, int nparts, off_t position)
{
	size_t nbytes = 0;

	for (int i = 0; i < nparts; i++)
		nbytes += parts[i].iov_len;
	if (is_full(fd, position + nbytes))
	{
		errno = ENOSPC;
		return -1;
	}
	return real_pwritev(fd, parts, nparts, position);
}

int
posix_fallocate(int fd, off_t position, off_t nbytes)
{
	return is_full(fd, position + nbytes) ? ENOSPC : real_posix_fallocate(fd, position, nbytes);
}
