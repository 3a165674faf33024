//! The index of events, in tantivy: one document per event, made from the store and thrown away with impunity.
//!
//! Every field of an event is a word `name:value` in one field of the index, so that any tag can be searched and
//! counted without being declared (`document`). Texts are cut into words as code is (`words`).

use std::{collections::HashMap, path::Path};

use berth_store::model::AppId;
use tantivy::{
    Index, IndexReader, IndexSettings, IndexWriter, ReloadPolicy, TantivyDocument, Term,
    collector::Count,
    directory::MmapDirectory,
    indexer::IndexWriterOptions,
    merge_policy::LogMergePolicy,
    query::{
        AllQuery, BooleanQuery, EmptyQuery, Occur, PhraseQuery, Query, RangeQuery, RegexQuery, TermQuery,
        TermSetQuery,
    },
    schema::{FAST, Field, INDEXED, IndexRecordOption, STRING, Schema, TextFieldIndexing, TextOptions},
    tokenizer::TextAnalyzer,
};

use super::{
    count::{self, ByIssue, Matching},
    document::{Entry, pair, pairs, text},
    grammar::Value,
    words::{CodeTokenizer, words},
};

/// Raised when documents look different; the index is then built anew.
const FORMAT: &str = "3";
/// Memory of the writer in bytes: the least that it takes. What comes between two commits is less.
const WRITER_BYTES: usize = 15_000_000;
/// Events of a segment that is merged no more: merging takes memory by the size of what comes of it, and a search does
/// not mind a few segments.
const MAX_MERGED: usize = 50_000;
/// Share of a segment's events that may be deleted before it is written anew.
const MAX_DELETED: f32 = 0.3;
/// Why the index does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the index of errors: {0}")]
pub struct IndexError(#[from] tantivy::TantivyError);

type Result<T> = std::result::Result<T, IndexError>;

/// The index.
pub(super) struct SearchIndex {
    index: Index,
    reader: IndexReader,
    fields: Fields,
}

/// Fields of a document.
#[derive(Debug, Clone, Copy)]
struct Fields {
    event: Field,
    issue: Field,
    app: Field,
    at: Field,
    /// `name:value`.
    pairs: Field,
    /// Names of fields that there are.
    names: Field,
    /// Words.
    text: Field,
}

/// An issue with matching events.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Hit {
    /// Matching events.
    pub events: u64,
    /// The best score.
    pub score: f32,
}

impl SearchIndex {
    /// Opens the index below `dir`, or begins a new one. What cannot be opened is thrown away.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let (schema, fields) = schema();
        std::fs::create_dir_all(dir).map_err(|e| tantivy::TantivyError::IoError(std::sync::Arc::new(e)))?;
        let open =
            || -> tantivy::Result<Index> { Index::open_or_create(MmapDirectory::open(dir)?, schema.clone()) };
        let index = match open() {
            Ok(index) => index,
            Err(error) => {
                tracing::warn!(%error, "the index of errors is damaged or of another version; it is built anew");
                clear(dir);
                open()?
            }
        };
        Self::with(index, fields)
    }

    /// An index in memory, for tests.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn in_memory() -> Result<Self> {
        let (schema, fields) = schema();
        let index =
            Index::create(tantivy::directory::RamDirectory::create(), schema, IndexSettings::default())?;
        Self::with(index, fields)
    }

    fn with(index: Index, fields: Fields) -> Result<Self> {
        index.tokenizers().register("code", TextAnalyzer::builder(CodeTokenizer::default()).build());
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        Ok(Self { index, reader, fields })
    }

    /// A writer; there is one at a time.
    ///
    /// # Errors
    /// When another has the lock.
    pub(super) fn writer(&self) -> Result<Writer> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .memory_budget_per_thread(WRITER_BYTES)
            // Each holds the pieces that it joins in memory; one after the other is soon enough.
            .num_merge_threads(1)
            .build();
        let writer = self.index.writer_with_options(options)?;
        set_merging(&writer);
        Ok(Writer { writer, fields: self.fields })
    }

    /// The row of the newest event that is in the index, as its last commit says.
    #[must_use]
    pub(super) fn position(&self) -> i64 {
        let payload = self.index.load_metas().ok().and_then(|m| m.payload).unwrap_or_default();
        let (format, row) = payload.split_once(' ').unwrap_or_default();
        if format == FORMAT { row.parse().unwrap_or(0) } else { 0 }
    }

    /// Whether what is in the index was written in another format: it has to go before anything is added.
    #[must_use]
    pub(super) fn is_outdated(&self) -> bool {
        let payload = self.index.load_metas().ok().and_then(|m| m.payload).unwrap_or_default();
        !payload.is_empty() && payload.split_once(' ').is_none_or(|(format, _)| format != FORMAT)
    }

    /// Makes what was committed visible.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(super) fn reload(&self) -> Result<()> {
        Ok(self.reader.reload()?)
    }

    /// Issues with events that match, of some apps or of all.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(super) fn issues(&self, query: Box<dyn Query>, apps: Option<&[AppId]>) -> Result<HashMap<i64, Hit>> {
        let query = self.of_apps(query, apps);
        Ok(self.reader.searcher().search(&query, &ByIssue)?)
    }

    /// How often values of `fields` occur among the events that match.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(super) fn facets(
        &self,
        query: Box<dyn Query>,
        apps: Option<&[AppId]>,
        fields: &[String],
        most: usize,
    ) -> Result<Vec<Vec<(String, u64)>>> {
        let query = self.of_apps(query, apps);
        let searcher = self.reader.searcher();
        let matching = searcher.search(&query, &Matching)?;
        let mut all = Vec::with_capacity(fields.len());
        for name in fields {
            let counts = count::values(&searcher, &matching, self.fields.pairs, &format!("{name}:"))?;
            let mut values: Vec<(String, u64)> = counts.into_iter().collect();
            values.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            values.truncate(most);
            all.push(values);
        }
        Ok(all)
    }

    /// Names of fields that events of some apps have, or those of all.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(super) fn names(&self, apps: Option<&[AppId]>) -> Result<Vec<String>> {
        let query = self.of_apps(Box::new(AllQuery), apps);
        let searcher = self.reader.searcher();
        let matching = searcher.search(&query, &Matching)?;
        let counts = count::values(&searcher, &matching, self.fields.names, "")?;
        let mut names: Vec<(String, u64)> = counts.into_iter().collect();
        names.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    /// Whether any event of some apps, or of all, has a field of this name.
    #[must_use]
    pub(super) fn has_name(&self, name: &str, apps: Option<&[AppId]>) -> bool {
        let term = Term::from_field_text(self.fields.names, name);
        let searcher = self.reader.searcher();
        if apps.is_none() {
            return searcher.doc_freq(&term).is_ok_and(|n| n > 0);
        }
        let query = self.of_apps(Box::new(TermQuery::new(term, IndexRecordOption::Basic)), apps);
        searcher.search(&query, &Count).is_ok_and(|n| n > 0)
    }

    fn of_apps(&self, query: Box<dyn Query>, apps: Option<&[AppId]>) -> Box<dyn Query> {
        let Some(apps) = apps else { return query };
        let term = |app: &AppId| Term::from_field_u64(self.fields.app, unsigned(app.0));
        let of: Box<dyn Query> = match apps {
            [app] => Box::new(TermQuery::new(term(app), IndexRecordOption::Basic)),
            apps => Box::new(TermSetQuery::new(apps.iter().map(term))),
        };
        Box::new(BooleanQuery::new(vec![(Occur::Must, query), (Occur::Must, of)]))
    }

    /// Events whose field `name` has a value.
    #[must_use]
    pub(super) fn field_query(&self, name: &str, value: &Value) -> Box<dyn Query> {
        match value {
            Value::Word(word) if word.contains('*') => {
                let pattern: String = word.split('*').map(escape_regex).collect::<Vec<_>>().join(".*");
                let pattern = format!("{}{}", escape_regex(&format!("{name}:")), pattern.to_lowercase());
                match RegexQuery::from_pattern(&pattern, self.fields.pairs) {
                    Ok(query) => Box::new(query),
                    Err(_) => Box::new(EmptyQuery),
                }
            }
            Value::Word(word) | Value::Phrase(word) => self.pair(name, word),
            Value::OneOf(values) => {
                Box::new(BooleanQuery::union(values.iter().map(|v| self.field_query(name, v)).collect()))
            }
            Value::Compare(..) => Box::new(EmptyQuery),
        }
    }

    fn pair(&self, name: &str, value: &str) -> Box<dyn Query> {
        Box::new(TermQuery::new(
            Term::from_field_text(self.fields.pairs, &pair(name, value)),
            IndexRecordOption::Basic,
        ))
    }

    /// Events that have a field.
    #[must_use]
    pub(super) fn has_query(&self, name: &str) -> Box<dyn Query> {
        Box::new(TermQuery::new(Term::from_field_text(self.fields.names, name), IndexRecordOption::Basic))
    }

    /// Events within a time, in microseconds.
    #[must_use]
    pub(super) fn time_query(&self, from: Option<i64>, to: Option<i64>) -> Box<dyn Query> {
        use std::ops::Bound;
        let bound = |at: Option<i64>| {
            at.map_or(Bound::Unbounded, |t| Bound::Included(Term::from_field_i64(self.fields.at, t)))
        };
        Box::new(RangeQuery::new(bound(from), bound(to)))
    }

    /// Events of these issues.
    #[must_use]
    pub(super) fn issues_query(&self, issues: &[i64]) -> Box<dyn Query> {
        let terms = issues.iter().map(|issue| Term::from_field_u64(self.fields.issue, unsigned(*issue)));
        Box::new(TermSetQuery::new(terms))
    }

    /// Events whose texts have these words, in this order; of a list, one of its values.
    #[must_use]
    pub(super) fn text_query(&self, value: &Value) -> Box<dyn Query> {
        let text = match value {
            Value::Word(text) | Value::Phrase(text) | Value::Compare(_, text) => text,
            Value::OneOf(values) => {
                return Box::new(BooleanQuery::union(values.iter().map(|v| self.text_query(v)).collect()));
            }
        };
        if text.contains('*') && matches!(value, Value::Word(_)) {
            let pattern: Vec<String> = text.split('*').map(escape_regex).collect();
            return match RegexQuery::from_pattern(&pattern.join(".*").to_lowercase(), self.fields.text) {
                Ok(query) => Box::new(query),
                Err(_) => Box::new(EmptyQuery),
            };
        }
        let mut terms = Vec::new();
        words(text, |word, _| terms.push(Term::from_field_text(self.fields.text, word)));
        match terms.len() {
            0 => Box::new(AllQuery),
            1 => Box::new(TermQuery::new(terms.remove(0), IndexRecordOption::WithFreqs)),
            _ => Box::new(PhraseQuery::new(terms)),
        }
    }
}

/// The one writer.
pub(super) struct Writer {
    writer: IndexWriter,
    fields: Fields,
}

/// Says which segments become one; a writer that was rolled back has forgotten it.
fn set_merging(writer: &IndexWriter) {
    let mut policy = LogMergePolicy::default();
    policy.set_max_docs_before_merge(MAX_MERGED);
    policy.set_del_docs_ratio_before_merge(MAX_DELETED);
    writer.set_merge_policy(Box::new(policy));
}

impl Writer {
    /// Adds an event.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(super) fn add(&mut self, entry: &Entry<'_>) -> Result<()> {
        let fields = self.fields;
        let mut document = TantivyDocument::new();
        document.add_u64(fields.event, unsigned(entry.row));
        document.add_u64(fields.issue, unsigned(entry.issue));
        document.add_u64(fields.app, unsigned(entry.app.0));
        document.add_i64(fields.at, entry.at);
        let mut seen = std::collections::HashSet::new();
        for (name, value) in pairs(entry) {
            if seen.insert(name.clone()) {
                document.add_text(fields.names, &name);
            }
            document.add_text(fields.pairs, pair(&name, &value));
        }
        document.add_text(fields.text, text(entry.event));
        self.writer.add_document(document)?;
        Ok(())
    }

    /// Takes the events of an issue out.
    pub(super) fn remove_issue(&mut self, issue: i64) {
        self.writer.delete_term(Term::from_field_u64(self.fields.issue, unsigned(issue)));
    }

    /// Takes an event out.
    pub(super) fn remove_event(&mut self, row: i64) {
        self.writer.delete_term(Term::from_field_u64(self.fields.event, unsigned(row)));
    }

    /// Takes the events of an app out that happened before a time, in microseconds.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(super) fn remove_before(&mut self, app: AppId, before: i64) -> Result<()> {
        use std::ops::Bound;
        let app = Term::from_field_u64(self.fields.app, unsigned(app.0));
        let before = Bound::Excluded(Term::from_field_i64(self.fields.at, before));
        let both: [Box<dyn Query>; 2] = [
            Box::new(TermQuery::new(app, IndexRecordOption::Basic)),
            Box::new(RangeQuery::new(Bound::Unbounded, before)),
        ];
        self.writer.delete_query(Box::new(BooleanQuery::intersection(both.into())))?;
        Ok(())
    }

    /// Takes all out.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(super) fn remove_all(&mut self) -> Result<()> {
        // Emptying leaves what was added and not committed: it would be there twice once it is added again.
        self.writer.rollback()?;
        set_merging(&self.writer);
        self.writer.delete_all_documents()?;
        Ok(())
    }

    /// Makes changes durable; `position` is the row of the newest event in them.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(super) fn commit(&mut self, position: i64) -> Result<()> {
        let mut commit = self.writer.prepare_commit()?;
        commit.set_payload(&format!("{FORMAT} {position}"));
        commit.commit()?;
        Ok(())
    }
}

fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let words = TextFieldIndexing::default()
        .set_tokenizer("code")
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let fields = Fields {
        event: builder.add_u64_field("event", INDEXED),
        issue: builder.add_u64_field("issue", INDEXED | FAST),
        app: builder.add_u64_field("app", INDEXED),
        at: builder.add_i64_field("at", INDEXED | FAST),
        pairs: builder.add_text_field("pairs", STRING),
        names: builder.add_text_field("names", STRING),
        text: builder.add_text_field("text", TextOptions::default().set_indexing_options(words)),
    };
    (builder.build(), fields)
}

/// Removes the files of an index that nothing can read.
fn clear(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_file())) {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, file = %entry.path().display(), "a file of the old index stays");
        }
    }
}

#[expect(clippy::cast_sign_loss, reason = "row ids are positive")]
fn unsigned(id: i64) -> u64 {
    id.max(0) as u64
}

fn escape_regex(text: &str) -> String {
    regex::escape(text)
}
