//! Keyspaces: maps side by side in one database, each with its own options, written together atomically.
//!
//! `cargo run --example keyspaces`

use esker::{Compression, Db, DbOptions, Keyspace, KeyspaceOptions, Result, WriteBatch};

/// Documents, and an index over their words that is never out of step with them.
struct Library {
    db: Db,
    documents: Keyspace,
    words: Keyspace,
}

impl Library {
    fn open(dir: &std::path::Path) -> Result<Self> {
        let options = DbOptions { cache_bytes: 16 << 20, ..DbOptions::default() };
        let db = Db::builder().options(options).open(dir)?;
        // Documents are large and seldom read: compressed, in larger blocks. The young levels stay fast.
        let documents = KeyspaceOptions {
            block_bytes: 16 << 10,
            compression: vec![Compression::None, Compression::Zstd],
            ..KeyspaceOptions::default()
        };
        let documents = db.keyspace("documents", documents)?;
        // Index entries are tiny, and only walked: no filter.
        let words = KeyspaceOptions { filter_bits: vec![0.0], ..KeyspaceOptions::default() };
        let words = db.keyspace("words", words)?;
        Ok(Library { db, documents, words })
    }

    /// Adds a document and its index entries: all of it or nothing.
    fn add(&self, name: &str, text: &str) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put_in(&self.documents, name, text);
        for word in text.split_whitespace() {
            batch.put_in(&self.words, format!("{word}\0{name}"), "");
        }
        self.db.write(batch)
    }

    /// The names of the documents that contain `word`, in order.
    fn find(&self, word: &str) -> Result<Vec<String>> {
        let prefix = format!("{word}\0");
        let name = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        self.words.prefix(&prefix).map(|entry| Ok(name(&entry?.0))).collect()
    }
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("esker-library-{}", std::process::id()));
    let library = Library::open(&dir)?;
    library.add("geology", "an esker is a ridge of sediment left by water")?;
    library.add("storage", "a log is sediment too and a tree has levels")?;

    println!("sediment: {:?}", library.find("sediment")?);
    println!("tree: {:?}", library.find("tree")?);
    if let Some(text) = library.documents.get("storage")? {
        println!("storage: {}", String::from_utf8_lossy(&text));
    }
    println!("keyspaces: {:?}", library.db.list_keyspaces());

    // A dropped keyspace is gone at once; its files go when nobody reads them any more.
    assert!(library.db.drop_keyspace("words")?);
    assert!(library.db.open_keyspace("words")?.is_none());
    drop(library);
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}
