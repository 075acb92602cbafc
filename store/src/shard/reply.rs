//! Direct reply-to, and the replies of deferred calls.
//!
//! Keeps: a reply goes to its requester or nowhere; a call's reply becomes its result.
//! In: `publish`.

use super::*;

/// The header that makes a reply an interim one.
const PROGRESS: &str = "x-progress";

impl Shard {
    /// True when the name is somebody's: the message is handed over, or captured as a result.
    pub(super) fn reply(&mut self, name: &str, block: &Arc<Block>, index: usize) -> bool {
        if let Some(id) = name.strip_prefix(REPLY_TO_JOB) {
            if let Some(id) = JobId::parse(id) {
                self.capture(id, block, index);
            }
            return true;
        }
        let Some((key, tag)) = self.replies.get(name).cloned() else {
            return name.starts_with("amq.rabbitmq.reply-to.");
        };
        let Some(channel) = self.channel(key) else {
            return true;
        };
        let first = channel.next_tag;
        channel.next_tag += 1;
        let piece = Piece::new(0, 1, block.clone(), index as u32, clock::now());
        self.counters.delivered += 1;
        let out = Out::Deliver {
            channel: key.channel,
            tag,
            first,
            piece,
            redelivered: false,
        };
        self.send(key.session, out);
        true
    }

    pub(super) fn capture(&mut self, id: JobId, block: &Block, index: usize) {
        let Ok(properties) = Properties::parse(block.properties(index)) else {
            return;
        };
        if let Some(value) = properties.header(PROGRESS) {
            return self.progressed(id, value, &block.body(index));
        }
        let text = |value: &Option<Vec<u8>>| {
            value
                .as_ref()
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let content_type = text(&properties.content_type);
        let failed = content_type.as_deref() == Some("application/problem+json")
            || properties.header("x-status").and_then(|v| v.as_text()) == Some("error");
        let body = block.body(index).into_owned();
        let error = failed.then(|| JobError {
            code: "worker-error".into(),
            detail: String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned(),
        });
        let content_encoding = text(&properties.content_encoding);
        self.pending.jobs.push(JobChange::Finish {
            id,
            state: if failed {
                JobState::Failed
            } else {
                JobState::Succeeded
            },
            at: clock::now(),
            error,
            result: Some(JobResult {
                content_type,
                content_encoding,
                body,
            }),
        });
        self.want_commit();
    }

    /// Registers the channel's reply consumer; answers the address publishers are given.
    pub fn subscribe_replies(&mut self, key: ChannelKey, tag: &[u8]) -> Result<()> {
        let failed = |detail: &str| Error::PreconditionFailed {
            noun: Noun::Consumer,
            name: REPLY_TO.into(),
            detail: detail.into(),
        };
        let mut name = format!("{REPLY_TO}.");
        for byte in clock::random_bytes() {
            name.push_str(&format!("{byte:02x}"));
        }
        let name: Arc<str> = name.into();
        let channel = self.channel(key).ok_or(Error::Stopped)?;
        if channel.reply_consumer.is_some() {
            return Err(failed("reply consumer already set"));
        }
        let tag: Arc<[u8]> = tag.into();
        channel.reply_consumer = Some((tag.clone(), name.clone()));
        self.replies.insert(name, (key, tag));
        Ok(())
    }

    /// What stands for `amq.rabbitmq.reply-to` in a publish on this channel.
    pub fn reply_address(&mut self, key: ChannelKey) -> Option<Arc<str>> {
        self.channel(key)?
            .reply_consumer
            .as_ref()
            .map(|(_, name)| name.clone())
    }

    /// True when a requester still listens at this full name.
    pub fn has_reply_address(&self, name: &str) -> bool {
        self.replies.contains_key(name)
    }
}
