//! The command lines about a queue's messages.
//!
//! In: `operate`.

use clap::{Args, Subcommand};

use super::operate::In;
use crate::admin::messages::{self, Ask, Meant, Verb};
use crate::admin::{Command, Span};

/// Keys shown when nothing is said: the worst of them, on one screen.
const KEYS_DEFAULT: u32 = 10;

/// The dead messages of a queue, wherever they went.
#[derive(Subcommand)]
pub(super) enum Dead {
    /// List them, oldest first.
    List(Listed),
    /// Show one whole, by its seq.
    Show(One),
    /// Move them back to the queue in which they died, or elsewhere. Without --detach it waits for
    /// the end; either way a crash or a stop only interrupts it.
    Redrive(Moved),
    /// Remove them.
    Purge {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        /// Count, and remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// A queue's messages, and whether it hands them out.
#[derive(Subcommand)]
pub(super) enum Messages {
    /// Hand out nothing more until the queue is resumed; publishers notice nothing.
    Pause(Of),
    /// Hand out messages again.
    Resume(Of),
    /// How the queue is: depths, ages, growth, dead letters; with order by key the keys whose heads
    /// are oldest.
    Signals {
        #[command(flatten)]
        of: Of,
        /// How many keys, up to 100.
        #[arg(long, default_value_t = KEYS_DEFAULT)]
        keys: u32,
    },
    /// List messages without consuming them.
    Peek {
        #[command(flatten)]
        list: Listed,
        /// Those in backoff or delayed.
        #[arg(long)]
        waiting: bool,
    },
    /// Show one whole, by its seq.
    Show(One),
    /// Remove messages; what is out with a consumer stays.
    Purge {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        /// Those in backoff or delayed.
        #[arg(long)]
        waiting: bool,
        /// Count, and remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Move messages to another queue.
    Move(Moved),
}

/// Settled messages that a queue keeps (x-retain).
#[derive(Subcommand)]
pub(super) enum Replay {
    /// List them, oldest first.
    List(Listed),
    /// Show one whole, by its seq.
    Show(One),
    /// Publish them again. Without --detach it waits for the end; either way a crash or a stop only
    /// interrupts it. `redrive list` and `redrive cancel` see it, too.
    Start {
        #[command(flatten)]
        moved: Moved,
        /// The first seq that is meant.
        #[arg(long, default_value_t = 0)]
        from_seq: u64,
        /// The last seq that is meant.
        #[arg(long)]
        to_seq: Option<u64>,
    },
}

/// Moves between queues that run, or ended within a day.
#[derive(Subcommand)]
pub(super) enum Redrives {
    /// List them, oldest first.
    List(Rows),
    /// End one; what was moved stays where it is.
    Cancel { id: String },
}

#[derive(Args)]
pub(super) struct Listed {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    meant: Conditions,
    #[command(flatten)]
    rows: Rows,
}

#[derive(Args)]
pub(super) struct One {
    #[command(flatten)]
    of: Of,
    seq: u64,
}

#[derive(Args)]
pub(super) struct Moved {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    meant: Conditions,
    #[command(flatten)]
    how: How,
}

/// Which part of a long list.
#[derive(Args)]
pub(super) struct Rows {
    /// So many; all when not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Go on where a list with a limit ended, as it said.
    #[arg(long)]
    cursor: Option<String>,
}

impl From<Rows> for Span {
    fn from(Rows { limit, cursor }: Rows) -> Self {
        Self { cursor, limit }
    }
}

#[derive(Args)]
pub(super) struct Of {
    #[command(flatten)]
    at: In,
    queue: String,
}

/// Which messages; all given conditions hold together.
#[derive(Args)]
pub(super) struct Conditions {
    /// A message id; may be given several times.
    #[arg(long = "id")]
    ids: Vec<String>,
    /// Accepted at or after this instant, as in 2026-01-31T08:00:00Z.
    #[arg(long)]
    since: Option<String>,
    /// Accepted before this instant.
    #[arg(long)]
    until: Option<String>,
    /// Died last of this: rejected, expired, maxlen or delivery_limit.
    #[arg(long)]
    reason: Option<String>,
    #[arg(long)]
    routing_key: Option<String>,
    /// A header, as in tenant=5; may be given several times.
    #[arg(long = "header")]
    headers: Vec<String>,
}

#[derive(Args)]
pub(super) struct How {
    /// The queue; without it each message goes to the one in which it died, or of which it is
    /// replayed.
    #[arg(long)]
    to: Option<String>,
    /// Messages a second.
    #[arg(long)]
    rate: Option<f64>,
    /// Count, and move nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
}

impl From<How> for messages::How {
    fn from(how: How) -> Self {
        Self {
            to: how.to,
            rate: how.rate,
            dry_run: how.dry_run,
            detach: how.detach,
        }
    }
}

impl From<Conditions> for Meant {
    fn from(given: Conditions) -> Self {
        Self {
            ids: given.ids,
            since: given.since,
            until: given.until,
            reason: given.reason,
            routing_key: given.routing_key,
            headers: given.headers,
        }
    }
}

fn ask(of: Of, meant: Option<Conditions>, verb: Verb) -> Ask {
    Ask {
        vhost: of.at.vhost,
        queue: of.queue,
        dead: false,
        meant: meant.map(Meant::from).unwrap_or_default(),
        verb,
    }
}

impl Listed {
    fn ask(self, verb: impl FnOnce(Span) -> Verb) -> Ask {
        ask(self.of, Some(self.meant), verb(self.rows.into()))
    }
}

impl Moved {
    fn ask(self, verb: impl FnOnce(messages::How) -> Verb) -> Ask {
        ask(self.of, Some(self.meant), verb(self.how.into()))
    }
}

impl From<Dead> for Command {
    fn from(dead: Dead) -> Self {
        let waiting = false;
        let ask = match dead {
            Dead::List(list) => list.ask(|span| Verb::List { waiting, span }),
            Dead::Show(One { of, seq }) => ask(of, None, Verb::Show { seq }),
            Dead::Redrive(moved) => moved.ask(Verb::Move),
            Dead::Purge { of, meant, dry_run } => {
                ask(of, Some(meant), Verb::Purge { waiting, dry_run })
            }
        };
        Self::Messages(Ask { dead: true, ..ask })
    }
}

impl From<Messages> for Command {
    fn from(messages: Messages) -> Self {
        Self::Messages(match messages {
            Messages::Pause(of) => ask(of, None, Verb::Pause),
            Messages::Resume(of) => ask(of, None, Verb::Resume),
            Messages::Signals { of, keys } => ask(of, None, Verb::Signals { keys }),
            Messages::Peek { list, waiting } => list.ask(|span| Verb::List { waiting, span }),
            Messages::Show(One { of, seq }) => ask(of, None, Verb::Show { seq }),
            Messages::Purge {
                of,
                meant,
                waiting,
                dry_run,
            } => ask(of, Some(meant), Verb::Purge { waiting, dry_run }),
            Messages::Move(moved) => moved.ask(Verb::Move),
        })
    }
}

impl From<Replay> for Command {
    fn from(replay: Replay) -> Self {
        Self::Messages(match replay {
            Replay::List(list) => list.ask(|span| Verb::ListRetained { span }),
            Replay::Show(One { of, seq }) => ask(of, None, Verb::ShowRetained { seq }),
            Replay::Start {
                moved,
                from_seq,
                to_seq,
            } => moved.ask(|how| Verb::Replay {
                from: from_seq,
                until: to_seq.map(|seq| seq.saturating_add(1)),
                how,
            }),
        })
    }
}

impl From<Redrives> for Command {
    fn from(redrives: Redrives) -> Self {
        match redrives {
            Redrives::List(rows) => Self::RedriveList(rows.into()),
            Redrives::Cancel { id } => Self::RedriveCancel { id },
        }
    }
}
