//! Conversations: AMQP behaviour written down as text and played against a server.
//!
//! Keeps: one meaning of a file on every server; a report that names every file that failed.
//! Never: decides by timing; a wait (`+2s`) is the file's own wish.
//! In: `tests/conversation.rs`, one test per server. Files: `tests/conversation/*/*.conv`, and in
//! `tests/conversation_traced` those that need the fire-hose to be on.
//!
//! ```text
//! # The first comment is the test's name.
//! # only: rabbitmq          the whole file holds on one family of servers only
//! # not yet: leveret        played, must fail there, and is counted by name until it holds
//! # aside                   it waits for long and touches no queue: played beside the others
//! 1> queue.declare queue=q durable     the client sends on channel 1 of connection A
//! B.2> basic.get queue=q               on channel 2 of connection B; both are opened on first use
//! 1< queue.declare-ok queue=q messages=0    expected next; what is not named is free
//! 1<? basic.ack tag=1                  expected, others may come before it
//! 1< channel.close 404 "NOT_FOUND - …" method=queue.bind    answered, unless it says `hold`
//! 1>> queue.declare queue=q passive    sent again until the line below fits
//! 1< queue.declare-ok messages=2
//! 1< confirmed 1..3 5 nacked 4         confirms, in any order, alone or several in one
//! 1< nothing within 200ms              silence, for all of that time
//! A< closed within 5s                  the socket ends
//! A< bytes "AMQP\x00\x00\x09\x01"      a protocol header
//! A< heartbeat within 2s
//! A: open user=u password=p vhost=/ heartbeat=1 frame-max=4096 channel-max=8 channels=manual
//!         capabilities={}
//! A: socket                            connected, nothing said yet
//! A: drop                              the client's socket ends
//! A> bytes "GET /" x:0d0a              raw bytes
//! 1> frame type=1 payload=x:… size=9 end=x:00    a frame that may lie
//! 1> basic.publish key=q content=none  the method alone; then
//! 1> content-header size=10 class=60 priority=1
//! 1> content-body "0123456789"
//! 1> heartbeat
//! +2s                                  wait; where time is real, files that wait more are skipped
//! @leveret 1< basic.ack tag=1          a line for one family of servers
//! ```
//! Values and patterns: see `term`. With `TEST_CONVERSATION_SHOW` set, what came is printed.

pub mod client;
pub mod matching;
pub mod play;
pub mod script;
pub mod stage;
pub mod term;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use play::Patience;
use script::Script;
use stage::Stage;

/// What became of all files on one server.
#[derive(Debug, Default)]
pub struct Report {
    pub server: String,
    pub passed: usize,
    /// File and reason.
    pub failed: Vec<(String, String)>,
    /// File and reason.
    pub skipped: Vec<(String, String)>,
    /// Files that are known not to hold here yet.
    pub not_yet: Vec<String>,
    pub took: Duration,
}

impl Report {
    /// All that failed and was skipped by name, and the counts.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (file, why) in &self.skipped {
            text += &format!("skipped  {file}: {why}\n");
        }
        for file in &self.not_yet {
            text += &format!("not yet  {file}\n");
        }
        for (file, why) in &self.failed {
            text += &format!(
                "FAILED   {file}\n         {}\n",
                why.replace('\n', "\n         ")
            );
        }
        text += &format!(
            "conversations on {}: {} passed, {} failed, {} not yet, {} skipped in {:.1} s",
            self.server,
            self.passed,
            self.failed.len(),
            self.not_yet.len(),
            self.skipped.len(),
            self.took.as_secs_f64(),
        );
        text
    }
}

/// Reads every conversation below `folder`, sorted by path; the name is `class/file.conv`.
///
/// # Errors
/// A file cannot be read as a conversation.
pub fn files(folder: &Path) -> Result<Vec<(String, Conversation)>> {
    let mut paths = Vec::new();
    for class in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let class = class?.path();
        if class.is_dir() {
            paths.extend(
                fs::read_dir(class)?
                    .map(|file| Ok(file?.path()))
                    .collect::<Result<Vec<_>>>()?,
            );
        }
    }
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "conv")
    });
    paths.sort();
    let read = |path: PathBuf| {
        let name = path
            .strip_prefix(folder)
            .unwrap_or(&path)
            .display()
            .to_string();
        let script = fs::read_to_string(&path)
            .map_err(Into::into)
            .and_then(|text| Script::read(&text));
        Ok((name.clone(), Conversation(script.with_context(|| name)?)))
    };
    paths.into_iter().map(read).collect()
}

/// One file.
#[derive(Debug)]
pub struct Conversation(Script);

/// Plays all files: one after the other, those marked `aside` beside them.
///
/// # Errors
/// Two files have one name.
pub async fn play_all<S: Stage>(
    files: &[(String, Conversation)],
    stage: &S,
    patience: Patience,
) -> Result<Report> {
    let started = Instant::now();
    let mut report = Report {
        server: stage.name().to_owned(),
        ..Report::default()
    };
    let mut names: Vec<&str> = files.iter().map(|(_, it)| it.0.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("two conversations are called {:?}", pair[0]);
    }
    let mut due = Vec::new();
    for (file, Conversation(script)) in files {
        match reason_to_skip(script, stage) {
            Some(why) => report.skipped.push((file.clone(), why)),
            None => due.push((file, script)),
        }
    }
    let (aside, in_turn): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, script)| script.aside);
    let aside = async {
        let mut outcomes = Vec::new();
        for batch in aside.chunks(ASIDE_AT_ONCE) {
            outcomes.extend(together(batch, stage, patience).await);
        }
        outcomes
    };
    let in_turn = async {
        let mut outcomes = Vec::new();
        for (file, script) in &in_turn {
            outcomes.push((*file, *script, play::play(script, stage, patience).await));
        }
        outcomes
    };
    let (first, second) = tokio::join!(in_turn, aside);
    for (file, script, outcome) in first.into_iter().chain(second) {
        let not_yet = script.not_yet.as_deref() == Some(stage.family());
        match outcome {
            Err(_) if not_yet => report.not_yet.push(file.clone()),
            Ok(()) if not_yet => {
                let why = "it holds now: take `# not yet` out".to_owned();
                report.failed.push((file.clone(), why));
            }
            Ok(()) => report.passed += 1,
            Err(fault) => report.failed.push((file.clone(), format!("{fault:#}"))),
        }
    }
    report.took = started.elapsed();
    Ok(report)
}

type Due<'f> = (&'f String, &'f Script);
type Outcome<'f> = (&'f String, &'f Script, Result<()>);

async fn together<'f, S: Stage>(
    batch: &[Due<'f>],
    stage: &S,
    patience: Patience,
) -> Vec<Outcome<'f>> {
    let mut playing: Vec<_> = batch
        .iter()
        .map(|(file, script)| {
            let playing = Box::pin(play::play(script, stage, patience));
            (*file, *script, playing)
        })
        .collect();
    let mut outcomes = Vec::new();
    std::future::poll_fn(|context| {
        playing.retain_mut(
            |(file, script, future)| match future.as_mut().poll(context) {
                std::task::Poll::Ready(outcome) => {
                    outcomes.push((*file, *script, outcome));
                    false
                }
                std::task::Poll::Pending => true,
            },
        );
        if playing.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outcomes
}

fn reason_to_skip<S: Stage>(script: &Script, stage: &S) -> Option<String> {
    let family = stage.family();
    if let Some(only) = script.only.as_ref().filter(|only| *only != family) {
        return Some(format!("holds on {only} only"));
    }
    let waits = script.waits(family);
    let long = waits > REAL_WAIT_MAX && !script.aside && !stage.has_virtual_time();
    long.then(|| format!("waits {waits:?} of real time"))
}

/// How long a file may wait where time is real.
const REAL_WAIT_MAX: Duration = Duration::from_secs(2);

/// How many files play beside the others at a time.
const ASIDE_AT_ONCE: usize = 32;
