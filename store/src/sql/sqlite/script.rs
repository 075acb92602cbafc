//! Several statements in one trip to the connection's thread.
//!
//! Keeps: the order in which statements were added. A trip wakes two threads, which costs more than
//! most statements do, so a small batch makes one for everything before its `commit`. A large batch
//! sends each statement by itself: together they would be a text seen once and never again, while
//! a connection keeps only texts that come back prepared.
//! Never: holds a numbered place holder (`?1`): places are counted through the whole script.
//! In: `apply`.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type};

pub(super) struct Script {
    text: String,
    values: SqliteArguments,
    statements: usize,
    /// Statements per trip.
    limit: usize,
}

impl Script {
    /// Everything in one trip.
    pub(super) fn joined() -> Self {
        Self::new(usize::MAX)
    }

    /// A trip for each statement.
    pub(super) fn single() -> Self {
        Self::new(1)
    }

    fn new(limit: usize) -> Self {
        Self {
            text: String::new(),
            values: SqliteArguments::default(),
            statements: 0,
            limit,
        }
    }

    /// Begins the next statement; the values that follow belong to it. Sends what went before when
    /// that is due.
    pub(super) async fn statement(
        &mut self,
        conn: &mut SqliteConnection,
        text: &str,
    ) -> Result<(), sqlx::Error> {
        if self.statements >= self.limit {
            self.send(conn).await?;
        }
        debug_assert!(!text.contains("?1"), "numbered place holder: {text}");
        if self.statements > 0 {
            self.text.push_str(";\n");
        }
        self.text.push_str(text);
        self.statements += 1;
        Ok(())
    }

    pub(super) fn value<'v, T>(&mut self, value: T) -> Result<(), sqlx::Error>
    where
        T: Encode<'v, Sqlite> + Type<Sqlite>,
    {
        self.values.add(value).map_err(sqlx::Error::Encode)
    }

    /// For ids, seqs and counts, which SQLite keeps as signed numbers.
    pub(super) fn number(&mut self, value: u64) -> Result<(), sqlx::Error> {
        self.value(value.cast_signed())
    }

    /// Sends what is left. The script is empty afterwards, whatever came of it.
    pub(super) async fn send(&mut self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if self.statements == 0 {
            return Ok(());
        }
        self.statements = 0;
        let text = std::mem::take(&mut self.text);
        let values = std::mem::take(&mut self.values);
        sqlx::query_with(AssertSqlSafe(text), values)
            .execute(conn)
            .await
            .map(drop)
    }
}
