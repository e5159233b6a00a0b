//! Links in SQLite: one connection that writes, and one for each worker that reads.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heirloom::PerWorker;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior};

use crate::link::{Alias, Link, Target};

/// The additions of each version of the schema. During a handover, and after a rollback, the old generation works with the
/// new schema. So a version only adds parts that its predecessor does not need, and parts that are no longer used are
/// removed two versions later.
const SCHEMA: [&str; 2] = [
    // AUTOINCREMENT: hits of a link that was deleted are never given to another one.
    "CREATE TABLE links (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        alias TEXT NOT NULL UNIQUE,
        url TEXT NOT NULL,
        created INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT",
    "ALTER TABLE links ADD COLUMN hits INTEGER NOT NULL DEFAULT 0",
];

const COLUMNS: &str = "id, alias, url, strftime('%Y-%m-%dT%H:%M:%SZ', created, 'unixepoch'), hits";

/// Shared by all workers.
pub struct Store {
    /// Writers of this process wait for each other here, in turn, and only the first of them for the other
    /// generation's.
    writer: Mutex<Connection>,
    readers: PerWorker<Connection>,
    /// Counted, and not written yet; by the links' ids.
    hits: Mutex<HashMap<i64, i64>>,
}

/// Why an operation failed.
#[derive(Debug)]
pub enum Failure {
    /// There is a link of that name.
    Taken,
    /// The database was locked by other writers for too long.
    Busy,
    /// The disk is full.
    Full,
    Other(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(e: rusqlite::Error) -> Failure {
        match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Busy,
            Some(ErrorCode::DiskFull) => Failure::Full,
            _ => Failure::Other(e),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Taken => f.write_str("the alias is taken"),
            Failure::Busy => f.write_str("the database is busy"),
            Failure::Full => f.write_str("the disk is full"),
            Failure::Other(e) => write!(f, "the database: {e}"),
        }
    }
}

impl Store {
    /// Makes the database if there is none, and brings its schema up to date. A writer waits for
    /// other processes for `patience` at most.
    pub fn open(path: impl AsRef<Path>, patience: Duration) -> Result<Store, String> {
        let path = path.as_ref().to_owned();
        let open = || {
            let mut writer = connect(&path, patience)?;
            // Readers don't wait for the writer, nor it for them. The file remembers this.
            writer.pragma_update(None, "journal_mode", "wal")?;
            // Commits reach the disk: a 201 outlives a power failure.
            writer.pragma_update(None, "synchronous", "full")?;
            let version = migrate(&mut writer)?;
            Ok((writer, version))
        };
        let (writer, version) = open().map_err(|e: rusqlite::Error| format!("{}: {e}", path.display()))?;
        // A rollback leaves a database that is one version ahead, which works here: see SCHEMA.
        if version > SCHEMA.len() as i64 + 1 {
            return Err(format!(
                "{}: of a version that is too new for this program: {version}",
                path.display()
            ));
        }
        let readers = PerWorker::new(move || {
            let reader = connect(&path, patience)?;
            reader.pragma_update(None, "query_only", true)?;
            Ok::<_, rusqlite::Error>(reader)
        });
        Ok(Store { writer: Mutex::new(writer), readers, hits: Mutex::default() })
    }

    /// The first connections of the workers.
    pub fn readers(&self) -> &PerWorker<Connection> {
        &self.readers
    }

    /// It is on the disk when this returns. Without an alias it gets one that is free.
    pub fn create(&self, alias: Option<&Alias>, target: &Target) -> Result<Link, Failure> {
        let mut writer = lock(&self.writer);
        let change = begin(&mut writer)?;
        let alias = match alias {
            Some(alias) => insert(&change, alias, target)?.then(|| alias.clone()),
            // 40 random bits: a second try is rare, a third one unheard of.
            None => (0..5).find_map(|_| insert_somewhere(&change, target).transpose()).transpose()?,
        };
        let alias = alias.ok_or(Failure::Taken)?;
        let link = find(&change, alias.as_str())?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        change.commit()?;
        Ok(link)
    }

    pub fn find(&self, alias: &str) -> Result<Option<Link>, Failure> {
        self.read(|connection| find(connection, alias))
    }

    /// Where the link leads. Nothing is written yet: a redirect never waits for a writer.
    pub fn follow(&self, alias: &str, count: bool) -> Result<Option<String>, Failure> {
        let found = self.read(|connection| {
            let mut query = connection.prepare_cached("SELECT id, url FROM links WHERE alias = ?1")?;
            query.query_row([alias], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })?;
        let Some((id, url)) = found else { return Ok(None) };
        if count {
            *lock(&self.hits).entry(id).or_default() += 1;
        }
        Ok(Some(url))
    }

    /// The newest links, or the newest of those that are older than the one with the id `before`.
    pub fn newest(&self, before: Option<i64>, most: u32) -> Result<Vec<Link>, Failure> {
        self.read(|connection| {
            let text = format!("SELECT {COLUMNS} FROM links WHERE id < ?1 ORDER BY id DESC LIMIT ?2");
            let mut query = connection.prepare_cached(&text)?;
            query.query_map((before.unwrap_or(i64::MAX), most), link)?.collect()
        })
    }

    /// False if there was none.
    pub fn delete(&self, alias: &str) -> Result<bool, Failure> {
        let writer = lock(&self.writer);
        Ok(writer.prepare_cached("DELETE FROM links WHERE alias = ?1")?.execute([alias])? > 0)
    }

    /// Adds the counts to those in the database, whichever process has written them. Counts that can't be written are kept for
    /// the next time, and logged.
    pub fn write_hits(&self) {
        let mut writer = lock(&self.writer);
        let counted = std::mem::take(&mut *lock(&self.hits));
        if counted.is_empty() {
            return;
        }
        let mut write = || {
            let change = begin(&mut writer)?;
            {
                let mut add = change.prepare_cached("UPDATE links SET hits = hits + ?2 WHERE id = ?1")?;
                for (id, hits) in &counted {
                    add.execute((id, hits))?;
                }
            }
            change.commit()
        };
        if let Err(e) = write() {
            log::error!("hits can't be written: {e}");
            let mut hits = lock(&self.hits);
            for (id, counted) in counted {
                *hits.entry(id).or_default() += counted;
            }
        }
    }

    fn read<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Failure> {
        Ok(self.readers.with(|reader| ask(reader))?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // After a panic, the transaction was rolled back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path, patience: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(patience)?;
    Ok(connection)
}

/// Takes the lock at once: a transaction that reads first and then writes is refused if another one has
/// written in between, and no patience helps.
fn begin(writer: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    writer.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// All of it or nothing, by one process: another one that starts meanwhile waits, and finds it done. Gives
/// the version that is there now.
fn migrate(writer: &mut Connection) -> rusqlite::Result<i64> {
    let change = begin(writer)?;
    let version: i64 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let missing = SCHEMA.get(usize::try_from(version).unwrap_or(0)..).unwrap_or_default();
    for step in missing {
        change.execute_batch(step)?;
    }
    if !missing.is_empty() {
        change.pragma_update(None, "user_version", SCHEMA.len() as i64)?;
    }
    change.commit()?;
    Ok(version.max(SCHEMA.len() as i64))
}

/// False if the alias is taken.
fn insert(change: &Transaction<'_>, alias: &Alias, target: &Target) -> rusqlite::Result<bool> {
    let text = "INSERT INTO links (alias, url) VALUES (?1, ?2) ON CONFLICT (alias) DO NOTHING";
    Ok(change.prepare_cached(text)?.execute((alias.as_str(), target.as_str()))? == 1)
}

/// None if the alias is taken.
fn insert_somewhere(change: &Transaction<'_>, target: &Target) -> rusqlite::Result<Option<Alias>> {
    let random = change.prepare_cached("SELECT random()")?.query_row([], |row| row.get(0))?;
    let alias = Alias::of_number(random);
    Ok(insert(change, &alias, target)?.then_some(alias))
}

fn find(connection: &Connection, alias: &str) -> rusqlite::Result<Option<Link>> {
    let text = format!("SELECT {COLUMNS} FROM links WHERE alias = ?1");
    connection.prepare_cached(&text)?.query_row([alias], link).optional()
}

/// From a row of `COLUMNS`.
fn link(row: &Row<'_>) -> rusqlite::Result<Link> {
    let alias: String = row.get(1)?;
    let path = format!("/{alias}");
    Ok(Link { id: row.get(0)?, alias, url: row.get(2)?, path, created: row.get(3)?, hits: row.get(4)? })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn folder() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn target(text: &str) -> Target {
        Target::try_from(text.to_owned()).unwrap()
    }

    fn alias(text: &str) -> Alias {
        Alias::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_link_s_life() {
        let folder = folder();
        let store = Store::open(folder.path().join("links.db"), PATIENCE).unwrap();
        let made = store.create(Some(&alias("a")), &target("https://example.com/1")).unwrap();
        assert_eq!(
            (&*made.alias, &*made.url, &*made.path, made.hits),
            ("a", "https://example.com/1", "/a", 0)
        );
        assert!(made.created.starts_with("20") && made.created.ends_with('Z'), "{}", made.created);
        let again = store.create(Some(&alias("a")), &target("https://example.com/2"));
        assert!(matches!(again, Err(Failure::Taken)));
        assert_eq!(store.find("a").unwrap().unwrap(), made);
        let other = store.create(None, &target("https://example.com/2")).unwrap();
        let links = |before| -> Vec<String> {
            store.newest(before, 10).unwrap().into_iter().map(|link| link.alias).collect()
        };
        assert_eq!(links(None), [other.alias.clone(), "a".to_owned()]);
        assert_eq!(links(Some(other.id)), ["a"]);
        assert_eq!(store.newest(None, 1).unwrap().len(), 1);

        assert_eq!(store.follow("a", true).unwrap().unwrap(), "https://example.com/1");
        assert_eq!(store.follow("a", false).unwrap().unwrap(), "https://example.com/1");
        assert_eq!(store.follow("b", true).unwrap(), None);
        assert_eq!(store.find("a").unwrap().unwrap().hits, 0);
        store.write_hits();
        store.write_hits();
        assert_eq!(store.find("a").unwrap().unwrap().hits, 1);

        // The next link of that name does not get its hits.
        store.follow("a", true).unwrap();
        assert!(store.delete("a").unwrap() && !store.delete("a").unwrap());
        store.create(Some(&alias("a")), &target("https://example.com/3")).unwrap();
        store.write_hits();
        assert_eq!(store.find("a").unwrap().unwrap().hits, 0);
    }

    /// As during a handover, but in one process: the locks are the same.
    #[test]
    fn two_generations_write_at_once() {
        let folder = folder();
        let path = folder.path().join("links.db");
        let generations: Vec<_> = (0..2).map(|_| Arc::new(Store::open(&path, PATIENCE).unwrap())).collect();
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let store = Arc::clone(&generations[n % 2]);
                testkit::beside("writer", move || {
                    for i in 0..50 {
                        store
                            .create(Some(&alias(&format!("{n}-{i}"))), &target("https://example.com"))
                            .unwrap();
                        store.follow("0-0", true).unwrap();
                        store.write_hits();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let links = generations[0].newest(None, 1_000).unwrap();
        assert_eq!(links.len(), 200);
        // 0-0 is there from thread 0's first on; its own 50 are counted in any case.
        let hits = generations[1].find("0-0").unwrap().unwrap().hits;
        assert!((50..=200).contains(&hits), "{hits}");
    }

    #[test]
    fn old_databases_are_migrated_and_newer_ones_are_refused() {
        let folder = folder();
        let path = folder.path().join("links.db");
        let version = |store: &Store| -> i64 {
            lock(&store.writer).pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
        };
        {
            let old = Connection::open(&path).unwrap();
            old.execute_batch(SCHEMA[0]).unwrap();
            old.execute_batch("INSERT INTO links (alias, url) VALUES ('a', 'https://example.com/'); PRAGMA user_version = 1")
                .unwrap();
        }
        let store = Store::open(&path, PATIENCE).unwrap();
        assert_eq!((version(&store), store.find("a").unwrap().unwrap().hits), (2, 0));
        let mode: String =
            lock(&store.writer).pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");

        // As a newer program that was rolled back leaves it.
        lock(&store.writer)
            .execute_batch("ALTER TABLE links ADD COLUMN owner TEXT; PRAGMA user_version = 3")
            .unwrap();
        let older = Store::open(&path, PATIENCE).unwrap();
        older.create(Some(&alias("b")), &target("https://example.com")).unwrap();
        assert_eq!((version(&older), older.newest(None, 9).unwrap().len()), (3, 2));
        lock(&store.writer).execute_batch("PRAGMA user_version = 4").unwrap();
        let refused = Store::open(&path, PATIENCE).err().unwrap();
        assert!(refused.ends_with("too new for this program: 4"), "{refused}");
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing_behind() {
        let folder = folder();
        let path = folder.path().join("links.db");
        {
            let odd = Connection::open(&path).unwrap();
            // The second step can't be taken: its column is there.
            odd.execute_batch(
                "CREATE TABLE other (id); CREATE TABLE links (alias, hits); PRAGMA user_version = 1",
            )
            .unwrap();
        }
        assert!(Store::open(&path, PATIENCE).err().unwrap().contains("duplicate column name: hits"));
        let odd = Connection::open(&path).unwrap();
        assert_eq!(odd.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 1);
        assert!(Store::open("/nowhere/links.db", PATIENCE).is_err());
    }

    #[test]
    fn hits_that_cannot_be_written_are_kept() {
        let folder = folder();
        let path = folder.path().join("links.db");
        let store = Store::open(&path, Duration::from_millis(1)).unwrap();
        store.create(Some(&alias("a")), &target("https://example.com")).unwrap();
        let mut other = Connection::open(&path).unwrap();
        let busy = begin(&mut other).unwrap();
        store.follow("a", true).unwrap();
        store.write_hits();
        assert!(matches!(store.create(None, &target("https://example.com")), Err(Failure::Busy)));
        assert!(matches!(store.delete("a"), Err(Failure::Busy)));
        // Redirects go on meanwhile.
        store.follow("a", true).unwrap();
        drop(busy);
        store.write_hits();
        assert_eq!(store.find("a").unwrap().unwrap().hits, 2);
    }
}
