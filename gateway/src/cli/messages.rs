//! The command lines about a queue's messages.
//!
//! In: `operate`.

use clap::{Args, Subcommand};

use super::operate::In;
use crate::admin::Command;
use crate::admin::messages::{Ask, Meant, Verb};

/// Messages listed when nothing is said.
const LIST_DEFAULT: u32 = 50;

/// The dead messages of a queue, wherever they went.
#[derive(Subcommand)]
pub(super) enum Dead {
    /// List them, oldest first.
    List {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        #[arg(long, default_value_t = LIST_DEFAULT)]
        limit: u32,
    },
    /// Show one whole, by its seq.
    Show {
        #[command(flatten)]
        of: Of,
        seq: u64,
    },
    /// Move them back to the queue in which they died, or elsewhere. Without --detach it waits for
    /// the end; either way a crash or a stop only interrupts it.
    Redrive {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        #[command(flatten)]
        how: How,
    },
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
    Pause {
        #[command(flatten)]
        of: Of,
    },
    /// Hand out messages again.
    Resume {
        #[command(flatten)]
        of: Of,
    },
    /// List messages without consuming them.
    Peek {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        /// Those in backoff or delayed.
        #[arg(long)]
        waiting: bool,
        #[arg(long, default_value_t = LIST_DEFAULT)]
        limit: u32,
    },
    /// Show one whole, by its seq.
    Show {
        #[command(flatten)]
        of: Of,
        seq: u64,
    },
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
    Move {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        #[command(flatten)]
        how: How,
    },
}

/// Settled messages that a queue keeps (x-retain).
#[derive(Subcommand)]
pub(super) enum Replay {
    /// List them, oldest first.
    List {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        #[arg(long, default_value_t = LIST_DEFAULT)]
        limit: u32,
    },
    /// Show one whole, by its seq.
    Show {
        #[command(flatten)]
        of: Of,
        seq: u64,
    },
    /// Publish them again. Without --detach it waits for the end; either way a crash or a stop only
    /// interrupts it. `redrive list` and `redrive cancel` see it, too.
    Start {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        meant: Conditions,
        /// The first seq that is meant.
        #[arg(long, default_value_t = 0)]
        from_seq: u64,
        /// The last seq that is meant.
        #[arg(long)]
        to_seq: Option<u64>,
        /// The queue; without it the same one.
        #[arg(long)]
        to: Option<String>,
        /// Messages a second.
        #[arg(long)]
        rate: Option<f64>,
        /// Count, and publish nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not wait for the end.
        #[arg(long)]
        detach: bool,
    },
}

/// Moves between queues that run, or ended within a day.
#[derive(Subcommand)]
pub(super) enum Redrives {
    /// List them, oldest first.
    List,
    /// End one; what was moved stays where it is.
    Cancel { id: String },
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
    /// The queue; without it each message goes to the one in which it died.
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

impl From<How> for Verb {
    fn from(how: How) -> Self {
        Self::Move {
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

fn ask(of: Of, dead: bool, meant: Option<Conditions>, verb: Verb) -> Command {
    Command::Messages(Ask {
        vhost: of.at.vhost,
        queue: of.queue,
        dead,
        meant: meant.map(Meant::from).unwrap_or_default(),
        verb,
    })
}

impl From<Dead> for Command {
    fn from(dead: Dead) -> Self {
        let waiting = false;
        match dead {
            Dead::List { of, meant, limit } => {
                ask(of, true, Some(meant), Verb::List { waiting, limit })
            }
            Dead::Show { of, seq } => ask(of, true, None, Verb::Show { seq }),
            Dead::Redrive { of, meant, how } => ask(of, true, Some(meant), how.into()),
            Dead::Purge { of, meant, dry_run } => {
                ask(of, true, Some(meant), Verb::Purge { waiting, dry_run })
            }
        }
    }
}

impl From<Messages> for Command {
    fn from(messages: Messages) -> Self {
        match messages {
            Messages::Pause { of } => ask(of, false, None, Verb::Pause),
            Messages::Resume { of } => ask(of, false, None, Verb::Resume),
            Messages::Peek {
                of,
                meant,
                waiting,
                limit,
            } => ask(of, false, Some(meant), Verb::List { waiting, limit }),
            Messages::Show { of, seq } => ask(of, false, None, Verb::Show { seq }),
            Messages::Purge {
                of,
                meant,
                waiting,
                dry_run,
            } => ask(of, false, Some(meant), Verb::Purge { waiting, dry_run }),
            Messages::Move { of, meant, how } => ask(of, false, Some(meant), how.into()),
        }
    }
}

impl From<Replay> for Command {
    fn from(replay: Replay) -> Self {
        match replay {
            Replay::List { of, meant, limit } => {
                ask(of, false, Some(meant), Verb::ListRetained { limit })
            }
            Replay::Show { of, seq } => ask(of, false, None, Verb::ShowRetained { seq }),
            Replay::Start {
                of,
                meant,
                from_seq,
                to_seq,
                to,
                rate,
                dry_run,
                detach,
            } => {
                let verb = Verb::Replay {
                    from: from_seq,
                    until: to_seq.map(|seq| seq.saturating_add(1)),
                    to,
                    rate,
                    dry_run,
                    detach,
                };
                ask(of, false, Some(meant), verb)
            }
        }
    }
}

impl From<Redrives> for Command {
    fn from(redrives: Redrives) -> Self {
        match redrives {
            Redrives::List => Self::Redrives { cancel: None },
            Redrives::Cancel { id } => Self::Redrives { cancel: Some(id) },
        }
    }
}
