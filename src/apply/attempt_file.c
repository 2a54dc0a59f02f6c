/*-------------------------------------------------------------------------
 *
 * attempt_file.c
 *	  The file in which an applier notes what it is at.
 *
 * What crashes a process takes the server's shared memory along, and the
 * transaction with it.  The page cache stays: so a note is one pwrite without
 * fsync.  After a crash of the machine nothing can be told,
 * and nothing needs to be.
 *
 * Only who was at work when the crash came is suspect.  When a process dies, the
 * postmaster sends SIGQUIT to all others; so does a stop in mode immediate.
 * Whoever gets it says that he was not the one, and leaves as always.
 *
 * The file is in pg_stat_tmp, which each data directory has, and which no base
 * backup copies: a copy begins without suspicion.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apply/applier.h"
#include "apply/attempt_internal.h"
#include "compat.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"

/* The file of this process; read by a signal handler. */
static int file = -1;
static volatile sig_atomic_t is_open = false;

static bool failure_is_told;
static emit_log_hook_type prev_emit_log_hook = NULL;

static const char *
file_path(int32 stream_id)
{
	static char path[MAXPGPATH];

	snprintf(path, MAXPGPATH, PG_STAT_TMP_DIR "/detect_attempt.%u.%d", MyDatabaseId, stream_id);
	return path;
}

static size_t
note_bytes(const AttemptNote *note)
{
	return offsetof(AttemptNote, ranges) + note->nranges * sizeof(AttemptPosition);
}

/* The checksum that a note of this many bytes should have. */
static pg_crc32c
note_checksum(const AttemptNote *note, size_t bytes)
{
	const size_t begin = offsetof(AttemptNote, staging_table);
	pg_crc32c checksum;

	INIT_CRC32C(checksum);
	COMP_CRC32C(checksum, (const char *) note + begin, bytes - begin);
	FIN_CRC32C(checksum);
	return checksum;
}

/* Whether so many bytes are a whole note about this stream. */
static bool
note_is_valid(const AttemptNote *note, size_t bytes, const Stream *stream)
{
	return bytes >= offsetof(AttemptNote, ranges) && note->nsuspects >= 0 &&
		   note->nranges >= note->nsuspects &&
		   note->nranges <= (bytes - offsetof(AttemptNote, ranges)) / sizeof(AttemptPosition) &&
		   note->staging_table == stream->staging_table &&
		   note->checksum == note_checksum(note, note_bytes(note));
}

/*
 * The last note about a stream, NULL when there is none.
 */
AttemptNote *
attempt_file_read(const Stream *stream)
{
	int fd = OpenTransientFile(file_path(stream->id), O_RDONLY | PG_BINARY);
	AttemptNote *note = NULL;
	struct stat status;
	ssize_t bytes;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &status) == 0 && status.st_size < MaxAllocSize)
	{
		note = palloc0(Max(status.st_size, sizeof(AttemptNote)));
		bytes = pg_pread(fd, note, status.st_size, 0);
		if (bytes < 0 || !note_is_valid(note, bytes, stream))
			note = NULL;
	}
	CloseTransientFile(fd);
	return note;
}

/* ---------------------------------------------------------------------
 * The file of this process
 * ---------------------------------------------------------------------
 */

/* Say, once, that crashes will not be traced; the stream goes on. */
static void
tell_failure(const char *path)
{
	if (failure_is_told)
		return;
	failure_is_told = true;
	ereport(LOG, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", path),
				  errdetail("An element that crashes the server will not be found.")));
}

/* SIGQUIT: another process has crashed, or the server stops at once. */
static void
quit_innocently(SIGNAL_ARGS)
{
	uint32 state = ATTEMPT_INNOCENT;

	/* should it fail, there is nobody to tell */
	if (is_open && pg_pwrite(file, &state, sizeof(state), 0) < 0)
		is_open = false;
	SignalHandlerForCrashExit(postgres_signal_arg);
}

/* FATAL ends an attempt as well as an error does. */
static void
end_at_exit(int code, Datum arg)
{
	attempt_file_set_state(ATTEMPT_OVER);
}

/* A PANIC for want of disk space is no element's fault. */
static void
absolve_of_panic(ErrorData *error)
{
	if (error->elevel == PANIC &&
		(failure_kind(error) == FAILURE_ENVIRONMENT || error->sqlerrcode == ERRCODE_IO_ERROR))
		attempt_file_set_state(ATTEMPT_INNOCENT);
	if (prev_emit_log_hook)
		prev_emit_log_hook(error);
}

/*
 * Open the file of the stream whose applier this process is.
 */
void
attempt_file_open(const Stream *stream)
{
	const char *path = file_path(stream->id);

	if (file >= 0)
		return;
	file = BasicOpenFile(path, O_RDWR | O_CREAT | PG_BINARY);
	if (file < 0)
	{
		tell_failure(path);
		return;
	}
	ReserveExternalFD();
	pqsignal(SIGQUIT, quit_innocently);
	on_proc_exit(end_at_exit, (Datum) 0);
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = absolve_of_panic;
}

/*
 * Replace the note.
 */
void
attempt_file_write(AttemptNote *note, AttemptState state)
{
	size_t bytes = note_bytes(note);

	if (file < 0)
		return;
	note->state = state;
	note->checksum = note_checksum(note, bytes);
	/* a signal on the way finds a note that is whole, old or new */
	is_open = state == ATTEMPT_OPEN;
	if (pg_pwrite(file, note, bytes, 0) != bytes)
		tell_failure(PG_STAT_TMP_DIR);
}

/*
 * Say how the noted attempt has gone, if it is not said yet.
 */
void
attempt_file_set_state(AttemptState state)
{
	uint32 written = state;

	if (!is_open)
		return;
	if (pg_pwrite(file, &written, sizeof(written), 0) != sizeof(written))
		tell_failure(PG_STAT_TMP_DIR);
	is_open = false;
}

/* ---------------------------------------------------------------------
 * From other sessions, while no applier runs
 * ---------------------------------------------------------------------
 */

/*
 * Whether the stream would not try an element again that has crashed the
 * server.  The caller holds the stream's lock exclusively.
 */
bool
attempt_accuses(const Stream *stream)
{
	AttemptNote *note = attempt_file_read(stream);

	return note != NULL && note->crashes >= CRASHES_TO_PAUSE;
}

/*
 * Have that element become a dead letter, or be tried once more.  The caller
 * holds the stream's lock exclusively, and the stream is paused.
 */
void
attempt_set_reject(const Stream *stream, bool reject)
{
	AttemptNote *note = attempt_file_read(stream);
	int fd;

	if (note == NULL || note->rejects == reject)
		return;
	note->rejects = reject;
	note->checksum = note_checksum(note, note_bytes(note));
	fd = OpenTransientFile(file_path(stream->id), O_RDWR | PG_BINARY);
	if (fd < 0 || pg_pwrite(fd, note, note_bytes(note), 0) != note_bytes(note))
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not write file \"%s\": %m", file_path(stream->id))));
	CloseTransientFile(fd);
}

/*
 * Forget what was noted of a stream that is no more.
 */
void
attempt_forget(int32 stream_id)
{
	if (unlink(file_path(stream_id)) < 0 && errno != ENOENT)
		ereport(LOG, (errcode_for_file_access(),
					  errmsg("could not remove file \"%s\": %m", file_path(stream_id))));
}
