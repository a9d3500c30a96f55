use std::fmt;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_core::binding::{BoundEnv, Record, Saved};
use hearth_core::ids::{Fence, OwnerKey, SandboxUid};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::{Change, Contents, OpenError};

type Bytes = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Bytes = TableDefinition::new("meta");
const SANDBOXES: Bytes = TableDefinition::new("sandboxes");
const BINDS: Bytes = TableDefinition::new("binds");
/// The variables of those binds that came with any.
const ENVS: Bytes = TableDefinition::new("envs");
const TOMBSTONES: Bytes = TableDefinition::new("tombstones");
const DISPOSED: Bytes = TableDefinition::new("disposed");
const TABLES: [Bytes; 6] = [META, SANDBOXES, BINDS, ENVS, TOMBSTONES, DISPOSED];

/// The version of what the tables hold. A change that an older hearthd would misread raises it.
const SCHEMA: u64 = 1;
const SCHEMA_KEY: &str = "schema";
const FENCE_KEY: &str = "fence";

/// The journal holds a few hundred kilobytes; redb's default cache of a gibibyte would only tempt it.
const CACHE_BYTES: usize = 2 << 20;

/// Where the database lives.
pub(super) trait Medium: Send + fmt::Debug {
    /// Whether there is no database yet.
    fn is_fresh(&self) -> bool;
    /// Opens the database, or makes an empty one.
    fn open(&mut self) -> Result<Database, DatabaseError>;
    /// The path, for errors.
    fn path(&self) -> &Path;
    /// Moves a damaged database out of the way and says where it is.
    fn set_aside(&mut self) -> Result<PathBuf, OpenError>;
}

/// A file.
#[derive(Debug)]
pub(super) struct FileMedium {
    dir: PathBuf,
    path: PathBuf,
}

impl FileMedium {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            path: dir.join("journal.redb"),
        }
    }
}

impl Medium for FileMedium {
    fn is_fresh(&self) -> bool {
        !self.path.exists()
    }

    fn open(&mut self) -> Result<Database, DatabaseError> {
        let fresh = self.is_fresh();
        let database = builder().create(&self.path)?;
        if fresh {
            // The new name must survive a power cut as well as what is committed under it.
            fs::File::open(&self.dir).and_then(|dir| dir.sync_all())?;
        }
        Ok(database)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn set_aside(&mut self) -> Result<PathBuf, OpenError> {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let aside = self
            .path
            .with_file_name(format!("journal.redb.damaged-{seconds}"));
        fs::rename(&self.path, &aside).map_err(|source| OpenError::Io {
            action: "set aside the damaged journal",
            path: self.path.clone(),
            source,
        })?;
        Ok(aside)
    }
}

/// How every database of the journal is opened.
pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    // Reading all of a small file is cheap, and redb promises an error instead of a panic only with it.
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// The open database.
#[derive(Debug)]
pub(super) struct Store {
    database: Database,
}

/// Takes one row of a table into what was read.
type Visit<'a> = dyn FnMut(&mut Contents, String, &[u8]) -> Result<(), OpenError> + 'a;

impl Store {
    /// Opens the database and reads all of it.
    pub(super) fn open(medium: &mut dyn Medium) -> Result<(Self, Contents), OpenError> {
        // redb may panic on a file that was damaged outside its control; for us that is one more kind of damage.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| {
            let database = medium
                .open()
                .map_err(|error| opening(error, medium.path()))?;
            let store = Self { database };
            store.prepare()?;
            let contents = store.read()?;
            Ok((store, contents))
        }));
        opened.unwrap_or_else(|_| {
            Err(OpenError::Damaged {
                reason: "the database cannot be walked".to_owned(),
            })
        })
    }

    /// Makes the tables and checks the version.
    fn prepare(&self) -> Result<(), OpenError> {
        let write = self.database.begin_write().map_err(reading)?;
        for table in TABLES {
            write.open_table(table).map_err(reading)?;
        }
        {
            let mut meta = write.open_table(META).map_err(reading)?;
            let found = meta
                .get(SCHEMA_KEY)
                .map_err(reading)?
                .map(|value| number(value.value()))
                .transpose()?;
            match found {
                None => {
                    meta.insert(SCHEMA_KEY, SCHEMA.to_be_bytes().as_slice())
                        .map_err(reading)?;
                }
                Some(SCHEMA) => {}
                Some(found) if found > SCHEMA => {
                    return Err(OpenError::Newer {
                        found,
                        known: SCHEMA,
                    });
                }
                Some(found) => {
                    return Err(OpenError::Damaged {
                        reason: format!("schema version {found}"),
                    });
                }
            }
        }
        write.commit().map_err(reading)
    }

    fn read(&self) -> Result<Contents, OpenError> {
        let mut contents = Contents::default();
        let read = self.database.begin_read().map_err(reading)?;
        let mut walk = |table: Bytes, visit: &mut Visit<'_>| {
            for entry in read
                .open_table(table)
                .map_err(reading)?
                .iter()
                .map_err(reading)?
            {
                let (key, value) = entry.map_err(reading)?;
                visit(&mut contents, key.value().to_owned(), value.value())?;
            }
            Ok::<_, OpenError>(())
        };
        walk(META, &mut |contents, key, value| {
            match key.as_str() {
                SCHEMA_KEY => {}
                FENCE_KEY => contents.bindings.fence = Fence(number(value)?),
                _ => {
                    contents.meta.insert(key, value.to_owned());
                }
            }
            Ok(())
        })?;
        walk(SANDBOXES, &mut |contents, key, value| {
            contents.sandboxes.insert(SandboxUid(key), value.to_owned());
            Ok(())
        })?;
        walk(BINDS, &mut |contents, key, value| {
            let owner = str::from_utf8(value).map_err(|_| OpenError::Damaged {
                reason: format!("the owner key of {key} is not text"),
            })?;
            contents
                .bindings
                .binds
                .insert(SandboxUid(key), OwnerKey::from(owner));
            Ok(())
        })?;
        walk(ENVS, &mut |contents, key, value| {
            let env: BoundEnv =
                serde_json::from_slice(value).map_err(|error| OpenError::Damaged {
                    reason: format!("the variables of {key}: {error}"),
                })?;
            contents
                .bindings
                .envs
                .insert(SandboxUid(key), Arc::new(env));
            Ok(())
        })?;
        walk(TOMBSTONES, &mut |contents, key, _| {
            contents.bindings.tombstones.insert(OwnerKey(key));
            Ok(())
        })?;
        walk(DISPOSED, &mut |contents, key, _| {
            contents.bindings.disposed.insert(SandboxUid(key));
            Ok(())
        })?;
        Ok(contents)
    }

    /// Fills a new database with what could be saved of a damaged one.
    pub(super) fn rebuild(&mut self, contents: &Contents) -> Result<(), OpenError> {
        let records = contents.sandboxes.iter();
        let records = records.map(|(uid, record)| Change::PutSandbox(uid.clone(), record.clone()));
        let bindings = std::iter::once(Change::ReplaceBindings(contents.bindings.clone()));
        let changes: Vec<Change> = bindings.chain(records).collect();
        self.commit(changes.iter()).map_err(OpenError::Database)
    }

    /// Makes `changes` durable, all or nothing.
    pub(super) fn commit<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
    ) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        let mut tables = Tables::open(&write)?;
        for change in changes {
            tables.apply(change)?;
        }
        drop(tables);
        write.commit()?;
        Ok(())
    }
}

type Table<'txn> = redb::Table<'txn, &'static str, &'static [u8]>;

/// The tables in one write transaction.
struct Tables<'txn> {
    meta: Table<'txn>,
    sandboxes: Table<'txn>,
    binds: Table<'txn>,
    envs: Table<'txn>,
    tombstones: Table<'txn>,
    disposed: Table<'txn>,
}

impl<'txn> Tables<'txn> {
    fn open(write: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            meta: write.open_table(META)?,
            sandboxes: write.open_table(SANDBOXES)?,
            binds: write.open_table(BINDS)?,
            envs: write.open_table(ENVS)?,
            tombstones: write.open_table(TOMBSTONES)?,
            disposed: write.open_table(DISPOSED)?,
        })
    }

    fn apply(&mut self, change: &Change) -> Result<(), redb::Error> {
        match change {
            Change::PutMeta(key, value) => put(&mut self.meta, key, value),
            Change::RemoveMeta(key) => remove(&mut self.meta, key),
            Change::PutSandbox(uid, record) => put(&mut self.sandboxes, uid.as_str(), record),
            Change::RemoveSandbox(uid) => remove(&mut self.sandboxes, uid.as_str()),
            Change::Binding(record) => self.apply_record(record),
            Change::ReplaceBindings(saved) => self.replace_bindings(saved),
        }
    }

    fn apply_record(&mut self, record: &Record) -> Result<(), redb::Error> {
        match record {
            Record::Fence(fence) => put(&mut self.meta, FENCE_KEY, &fence.0.to_be_bytes()),
            Record::Bind {
                sandbox,
                owner,
                env,
            } => {
                self.put_env(sandbox, env.as_ref())?;
                put(&mut self.binds, sandbox.as_str(), owner.as_str().as_bytes())
            }
            Record::Unbind { sandbox } => {
                self.put_env(sandbox, None)?;
                remove(&mut self.binds, sandbox.as_str())
            }
            Record::Tombstone { owner } => put(&mut self.tombstones, owner.as_str(), &[]),
            Record::DropTombstone { owner } => remove(&mut self.tombstones, owner.as_str()),
            Record::Dispose { sandbox } => {
                self.put_env(sandbox, None)?;
                remove(&mut self.binds, sandbox.as_str())?;
                put(&mut self.disposed, sandbox.as_str(), &[])
            }
            Record::DropDisposed { sandbox } => remove(&mut self.disposed, sandbox.as_str()),
        }
    }

    fn put_env(
        &mut self,
        sandbox: &SandboxUid,
        env: Option<&Arc<BoundEnv>>,
    ) -> Result<(), redb::Error> {
        let Some(env) = env else {
            return remove(&mut self.envs, sandbox.as_str());
        };
        let text = serde_json::to_vec(&**env)
            .map_err(|error| redb::Error::Io(std::io::Error::other(error)))?;
        put(&mut self.envs, sandbox.as_str(), &text)
    }

    fn replace_bindings(&mut self, saved: &Saved) -> Result<(), redb::Error> {
        for table in [
            &mut self.binds,
            &mut self.envs,
            &mut self.tombstones,
            &mut self.disposed,
        ] {
            table.retain(|_, _| false)?;
        }
        put(&mut self.meta, FENCE_KEY, &saved.fence.0.to_be_bytes())?;
        for (sandbox, owner) in &saved.binds {
            put(&mut self.binds, sandbox.as_str(), owner.as_str().as_bytes())?;
        }
        for (sandbox, env) in &saved.envs {
            self.put_env(sandbox, Some(env))?;
        }
        for owner in &saved.tombstones {
            put(&mut self.tombstones, owner.as_str(), &[])?;
        }
        for sandbox in &saved.disposed {
            put(&mut self.disposed, sandbox.as_str(), &[])?;
        }
        Ok(())
    }
}

fn put(table: &mut Table<'_>, key: &str, value: &[u8]) -> Result<(), redb::Error> {
    table.insert(key, value)?;
    Ok(())
}

fn remove(table: &mut Table<'_>, key: &str) -> Result<(), redb::Error> {
    table.remove(key)?;
    Ok(())
}

/// What a failure to open means: damage is set aside, anything else is for people to mend.
fn opening(error: DatabaseError, path: &Path) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse {
                path: path.to_owned(),
            }
        }
        DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => OpenError::Damaged {
            reason: error.to_string(),
        },
        other => reading(other),
    }
}

fn reading(error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        // Cannot be read, cannot be written: not the file's fault, and setting it aside would not help.
        redb::Error::Io(error)
            if !matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            OpenError::Database(redb::Error::Io(error))
        }
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
            OpenError::Database(error)
        }
        error => OpenError::Damaged {
            reason: error.to_string(),
        },
    }
}

fn number(bytes: &[u8]) -> Result<u64, OpenError> {
    let bytes = bytes.try_into().map_err(|_| OpenError::Damaged {
        reason: format!("a number of {} bytes", bytes.len()),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Whether the database must be opened anew before it can be used again.
pub(super) fn is_fatal(error: &redb::Error) -> bool {
    !matches!(error, redb::Error::ValueTooLarge(_))
}

/// Marks the journal as one of a newer version.
#[cfg(test)]
pub(super) fn raise_schema(path: &Path) {
    let database = builder().create(path).expect("opens");
    let write = database.begin_write().expect("begins");
    write
        .open_table(META)
        .expect("is there")
        .insert(SCHEMA_KEY, 99_u64.to_be_bytes().as_slice())
        .expect("is written");
    write.commit().expect("commits");
}
