//! Plays one conversation against one server.
//!
//! Keeps: its connections, captured values, and what was declared, to delete it afterwards.
//! Never: goes on after a line that failed; the lines below depend on it.
//! In: `mod` for each file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::{Instant, sleep};

use super::client::{Client, Incoming, Opening, Received};
use super::matching::{check, named, show_received};
use super::script::{Expected, Line, Options, Script, Sent, Step, Target};
use super::stage::Stage;
use super::term::{Arg, Term, Vars};
use crate::wire::content::{self, Content};
use crate::wire::frame;
use crate::wire::method::{Method, Spec};
use crate::wire::value::Value;

/// How long a server may take for what a line expects.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Duration);

/// Plays all lines that hold here, then cleans up.
///
/// # Errors
/// The first line that did not hold, and why.
pub async fn play<S: Stage>(script: &Script, stage: &S, patience: Patience) -> Result<()> {
    let mut player = Player {
        stage,
        patience: patience.0,
        clients: BTreeMap::new(),
        vars: Vars::new(),
        queues: BTreeSet::new(),
        exchanges: BTreeSet::new(),
    };
    let played = player.lines(&script.lines).await;
    let clean = player.clean_up().await.context("cleaning up");
    played.and(clean)
}

struct Player<'s, S: Stage> {
    stage: &'s S,
    patience: Duration,
    clients: BTreeMap<String, Client>,
    vars: Vars,
    queues: BTreeSet<String>,
    exchanges: BTreeSet<String>,
}

impl<S: Stage> Player<'_, S> {
    async fn lines(&mut self, lines: &[Line]) -> Result<()> {
        let family = self.stage.family().to_owned();
        let mut lines = lines
            .iter()
            .filter(|line| line.holds_on(&family))
            .peekable();
        while let Some(line) = lines.next() {
            let done = match &line.step {
                Step::Send {
                    to,
                    what,
                    until_it_fits: true,
                } => {
                    let answer = lines
                        .next()
                        .ok_or_else(|| anyhow!("`>>` wants a `<` below"))?;
                    self.ask_until_it_fits(to, what, answer).await
                }
                step => self.step(step).await,
            };
            done.with_context(|| format!("line {}: {}", line.number, line.text))?;
        }
        self.nothing_left()
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Wait(span) => sleep(*span).await,
            Step::Open { connection, args } => self.open(connection, args).await?,
            Step::Socket { connection } => {
                let client = Client::new(self.stage.connect().await?);
                self.clients.insert(connection.clone(), client);
            }
            Step::Drop { connection } => {
                self.clients
                    .remove(connection)
                    .context("no such connection")?;
            }
            Step::Send { to, what, .. } => self.send(to, what).await?,
            Step::Expect {
                from,
                what,
                options,
            } => self.expect(from, what, options).await?,
        }
        Ok(())
    }

    async fn open(&mut self, connection: &str, args: &[Arg]) -> Result<()> {
        let mut opening = Opening::default();
        let mut opens_channels = true;
        for arg in args {
            let name = arg.name.as_deref().context("open wants name=value")?;
            if let Term::Table(entries) = &arg.term {
                let names = entries.iter().filter_map(|entry| entry.term.word());
                opening.capabilities = names.map(str::to_owned).collect();
                continue;
            }
            let value = arg.term.value(&self.vars)?;
            let text = value
                .as_str()
                .map(|text| String::from_utf8_lossy(text).into_owned());
            match (name, text, value.as_int()) {
                ("user", Some(text), _) => opening.user = text,
                ("password", Some(text), _) => opening.password = text,
                ("vhost", Some(text), _) => opening.vhost = text,
                ("heartbeat", _, Some(number)) => opening.heartbeat = u16::try_from(number)?,
                ("frame-max", _, Some(number)) => opening.frame_max = u32::try_from(number)?,
                ("channel-max", _, Some(number)) => opening.channel_max = u16::try_from(number)?,
                ("channels", Some(text), _) => opens_channels = text != "manual",
                _ => bail!("open has no {name}={:?}", arg.term),
            }
        }
        let mut client = Client::new(self.stage.connect().await?);
        client.open(&opening, self.patience).await?;
        client.opens_channels = opens_channels;
        self.clients.insert(connection.to_owned(), client);
        Ok(())
    }

    /// The connection of a line; opened, with its channel, when this is their first use.
    async fn client(&mut self, target: &Target, opens_itself: bool) -> Result<&mut Client> {
        let known = self.clients.get(&target.connection);
        if known.is_none_or(|client| client.finished) {
            self.open(&target.connection, &[]).await?;
        }
        let client = self
            .clients
            .get_mut(&target.connection)
            .context("it was just opened")?;
        let channel = target.channel.unwrap_or(0);
        if channel != 0 && !opens_itself && client.opens_channels {
            if !client.open_channels.contains(&channel) {
                client.open_channel(channel, self.patience).await?;
            }
        } else if opens_itself {
            client.open_channels.insert(channel);
        }
        Ok(client)
    }

    /// The connection of an expectation.
    fn known(&mut self, from: &Target) -> Result<&mut Client> {
        let name = &from.connection;
        self.clients
            .get_mut(name)
            .ok_or_else(|| anyhow!("connection {name} was never used"))
    }

    async fn send(&mut self, to: &Target, what: &Sent) -> Result<()> {
        let channel = to.channel.unwrap_or(0);
        let mut bytes = Vec::new();
        match what {
            Sent::Method(name, args) => return self.send_method(to, name, args).await,
            Sent::Bytes(terms) => {
                for term in terms {
                    let value = term.value(&self.vars)?;
                    bytes.extend_from_slice(value.as_str().context("bytes are texts or x:hex")?);
                }
            }
            Sent::Frame(args) => put_frame(&mut bytes, channel, args, &self.vars)?,
            Sent::ContentHeader(args) => {
                let payload = content_header(args, &self.vars)?;
                frame::put(&mut bytes, frame::HEADER, channel, &payload);
            }
            Sent::ContentBody(term) => {
                let value = term.value(&self.vars)?;
                let body = value.as_str().context("a body is a text")?;
                frame::put(&mut bytes, frame::BODY, channel, body);
            }
            Sent::Heartbeat => frame::put(&mut bytes, frame::HEARTBEAT, channel, &[]),
        }
        self.client(to, false).await?.write(&bytes).await;
        Ok(())
    }

    async fn send_method(&mut self, to: &Target, name: &str, args: &[Arg]) -> Result<()> {
        let mut method = Method::named(name)?;
        let mut content = method.spec.content.then(Content::default);
        for (name, arg) in named(method.spec, args)? {
            let value = match (&arg.term, name.as_str()) {
                (Term::Int(None, number), _) if is_text(method.spec, &name) => {
                    Value::str(&number.to_string())
                }
                (Term::Str(word), "content") if word == b"none" => continue,
                (Term::None, "content") => {
                    content = None;
                    continue;
                }
                (term, _) => term.value(&self.vars)?,
            };
            match &mut content {
                Some(content) if name == "body" => {
                    let text = value.as_str().map(<[u8]>::to_vec);
                    content.body = text
                        .or_else(|| value.as_int().map(|n| n.to_string().into()))
                        .context("a body is a text")?;
                }
                Some(content) if content::position(&name).is_some() => {
                    let at = content::position(&name).context("known above")?;
                    content.properties[at] = Some(value);
                }
                _ => method.set(&name, value)?,
            }
        }
        self.note_declaration(&method);
        let opens_itself = name == "channel.open";
        let client = self.client(to, opens_itself).await?;
        client
            .send(to.channel.unwrap_or(0), &method, content.as_ref())
            .await
    }

    /// Sends again until the answer is the one of the line below.
    async fn ask_until_it_fits(&mut self, to: &Target, what: &Sent, answer: &Line) -> Result<()> {
        let Step::Expect {
            from,
            what: expected,
            options,
        } = &answer.step
        else {
            bail!("`>>` wants a `<` below");
        };
        let deadline = Instant::now() + options.within.unwrap_or(self.patience);
        loop {
            self.send(to, what).await?;
            match self.expect(from, expected, options).await {
                Ok(()) => return Ok(()),
                Err(fault) if Instant::now() >= deadline => {
                    return Err(fault.context(format!("line {} never fitted", answer.number)));
                }
                Err(_) => sleep(Duration::from_millis(25)).await,
            }
        }
    }

    async fn expect(&mut self, from: &Target, what: &Expected, options: &Options) -> Result<()> {
        let within = options.within.unwrap_or(self.patience);
        match what {
            Expected::Method(name, args) => {
                self.expect_method(from, name, args, options, within).await
            }
            Expected::Confirms { acked, nacked } => {
                self.expect_confirms(from, acked, nacked, within).await
            }
            _ => {
                let client = self.known(from)?;
                match what {
                    Expected::Heartbeat => client.next_heartbeat(within).await,
                    Expected::Nothing => expect_nothing(client, from.channel, within).await,
                    Expected::Closed => expect_closed(client, within).await,
                    Expected::Bytes(term) => {
                        let due = term.value(&Vars::new())?;
                        match client.next(None, within).await? {
                            Incoming::Protocol(is) if due.as_str() == Some(&is) => Ok(()),
                            other => bail!("there came {}", other.show()),
                        }
                    }
                    Expected::Method(..) | Expected::Confirms { .. } => Ok(()),
                }
            }
        }
    }

    async fn expect_method(
        &mut self,
        from: &Target,
        name: &str,
        args: &[Arg],
        options: &Options,
        within: Duration,
    ) -> Result<()> {
        let spec = Spec::named(name).ok_or_else(|| anyhow!("no method is called {name:?}"))?;
        let args = named(spec, args)?;
        let channel = from.channel.unwrap_or(0);
        let mut vars = self.vars.clone();
        let client = self.known(from)?;
        let received = if options.anywhere {
            let fits = |received: &Received| {
                received.method.spec.name == name && check(received, &args, &mut vars).is_ok()
            };
            client.next_that(channel, within, fits).await?
        } else {
            let received = match client.next(Some(channel), within).await? {
                Incoming::Method(received) => received,
                other => bail!("there came {}", other.show()),
            };
            if received.method.spec.name != name {
                bail!("there came {}", show_received(&received));
            }
            let came = || format!("there came {}", show_received(&received));
            check(&received, &args, &mut vars).with_context(came)?;
            received
        };
        if std::env::var_os("TEST_CONVERSATION_SHOW").is_some() {
            eprintln!(
                "{}.{channel}< {}",
                from.connection,
                show_received(&received)
            );
        }
        if !options.hold {
            after(client, &received).await?;
        }
        self.vars = vars;
        if name == "queue.declare-ok" {
            self.queues.insert(received.method.text("queue"));
        }
        Ok(())
    }

    /// Confirms may come in any order, and several in one.
    async fn expect_confirms(
        &mut self,
        from: &Target,
        acked: &[u64],
        nacked: &[u64],
        within: Duration,
    ) -> Result<()> {
        let mut due: BTreeMap<u64, &str> = acked.iter().map(|tag| (*tag, "basic.ack")).collect();
        due.extend(nacked.iter().map(|tag| (*tag, "basic.nack")));
        let channel = from.channel;
        let client = self.known(from)?;
        while !due.is_empty() {
            let came = client
                .next(channel, within)
                .await
                .with_context(|| format!("due {due:?}"))?;
            let (name, tag, multiple) = match &came {
                Incoming::Method(it) => {
                    let method = &it.method;
                    let tag = u64::try_from(method.int("delivery-tag"))?;
                    (method.spec.name, tag, method.int("multiple") == 1)
                }
                _ => ("", 0, false),
            };
            let first = if multiple { 0 } else { tag };
            let settled: Vec<u64> = due.range(first..=tag).map(|(tag, _)| *tag).collect();
            if settled.last() != Some(&tag) || settled.iter().any(|tag| due[tag] != name) {
                bail!("there came {} while due are {due:?}", came.show());
            }
            due.retain(|tag, _| !settled.contains(tag));
        }
        Ok(())
    }

    fn note_declaration(&mut self, method: &Method) {
        if method.int("passive") == 1 {
            return;
        }
        match method.spec.name {
            "queue.declare" => self.queues.insert(method.text("queue")),
            "exchange.declare" => self.exchanges.insert(method.text("exchange")),
            _ => false,
        };
    }

    /// What a file did not expect must not have come.
    fn nothing_left(&mut self) -> Result<()> {
        for (name, client) in &mut self.clients {
            let harmless = |it: &Incoming| matches!(it, Incoming::Heartbeat | Incoming::Closed);
            let rest = client.rest();
            let rest: Vec<_> = rest
                .iter()
                .filter(|it| !harmless(it))
                .map(Incoming::show)
                .collect();
            if !rest.is_empty() {
                bail!("at the end, connection {name} also got {}", rest.join("; "));
            }
        }
        Ok(())
    }

    /// Closes what is open and deletes what was declared.
    async fn clean_up(&mut self) -> Result<()> {
        let short = Duration::from_secs(2);
        for (_, mut client) in std::mem::take(&mut self.clients) {
            if client.opens_channels && !client.finished {
                client
                    .send(0, &Method::named("connection.close")?, None)
                    .await?;
                let is_ok = |it: &Received| it.method.spec.name == "connection.close-ok";
                let _ = client.next_that(0, short, is_ok).await;
            }
        }
        let system = |name: &String| name.is_empty() || name.starts_with("amq.");
        let queues = self.queues.iter().filter(|name| !name.is_empty());
        let mut deletions = Vec::new();
        for queue in queues {
            deletions.push(Method::named("queue.delete")?.with("queue", Value::str(queue))?);
        }
        for exchange in self.exchanges.iter().filter(|name| !system(name)) {
            let deletion = Method::named("exchange.delete")?;
            deletions.push(deletion.with("exchange", Value::str(exchange))?);
        }
        if deletions.is_empty() {
            return Ok(());
        }
        let mut client = Client::new(self.stage.connect().await?);
        client.open(&Opening::default(), self.patience).await?;
        for (channel, deletion) in (1..).zip(&deletions) {
            client.open_channel(channel, self.patience).await?;
            client.send(channel, deletion, None).await?;
            client.next(Some(channel), self.patience).await?;
        }
        client
            .send(0, &Method::named("connection.close")?, None)
            .await?;
        client
            .await_method(0, "connection.close-ok", self.patience)
            .await?;
        Ok(())
    }
}

/// Answers a close and remembers what is open.
async fn after(client: &mut Client, received: &Received) -> Result<()> {
    let channel = received.channel;
    match received.method.spec.name {
        "channel.close" => {
            client.open_channels.remove(&channel);
            client
                .send(channel, &Method::named("channel.close-ok")?, None)
                .await?;
        }
        "channel.close-ok" => {
            client.open_channels.remove(&channel);
        }
        "connection.close" => {
            client.finished = true;
            client
                .send(0, &Method::named("connection.close-ok")?, None)
                .await?;
        }
        "connection.close-ok" => client.finished = true,
        _ => {}
    }
    Ok(())
}

async fn expect_nothing(client: &mut Client, channel: Option<u16>, within: Duration) -> Result<()> {
    match client.next(channel, within).await {
        Ok(incoming) => bail!("there came {}", incoming.show()),
        Err(fault) if fault.to_string().starts_with("nothing came") => Ok(()),
        Err(fault) => Err(fault),
    }
}

async fn expect_closed(client: &mut Client, within: Duration) -> Result<()> {
    match client.next(None, within).await? {
        Incoming::Closed => {
            client.finished = true;
            Ok(())
        }
        other => bail!("there came {}", other.show()),
    }
}

fn is_text(spec: &Spec, name: &str) -> bool {
    use crate::wire::method::Kind;
    let field = spec.position(name).map(|at| spec.fields[at].1);
    let property = content::position(name).map(|at| content::PROPERTIES[at].1);
    matches!(field.or(property), Some(Kind::ShortStr | Kind::LongStr))
}

/// `frame type=1 payload=x:… size=9 end=x:00`
fn put_frame(bytes: &mut Vec<u8>, channel: u16, args: &[Arg], vars: &Vars) -> Result<()> {
    let (mut kind, mut payload, mut size, mut end) = (1, Vec::new(), None, vec![frame::END]);
    for arg in args {
        let value = arg.term.value(vars)?;
        let raw = value.as_str().map(<[u8]>::to_vec);
        match (arg.name.as_deref(), value.as_int(), raw) {
            (Some("type"), Some(number), _) => kind = u8::try_from(number)?,
            (Some("size"), Some(number), _) => size = Some(u32::try_from(number)?),
            (Some("payload"), _, Some(raw)) => payload = raw,
            (Some("end"), _, Some(raw)) => end = raw,
            _ => bail!("a frame has no {arg:?}"),
        }
    }
    let size = size.unwrap_or(u32::try_from(payload.len())?);
    frame::put_bad(bytes, kind, channel, size, &payload, &end);
    Ok(())
}

/// `content-header size=9 class=60 weight=0` and properties.
fn content_header(args: &[Arg], vars: &Vars) -> Result<Vec<u8>> {
    let mut content = Content::default();
    let (mut class, mut weight, mut size) = (60, 0, 0);
    for arg in args {
        let name = arg
            .name
            .as_deref()
            .context("a content header wants name=value")?;
        let value = arg.term.value(vars)?;
        match (name, value.as_int()) {
            ("class", Some(number)) => class = u16::try_from(number)?,
            ("weight", Some(number)) => weight = u16::try_from(number)?,
            ("size", Some(number)) => size = number.cast_unsigned(),
            _ => {
                let at = content::position(name).ok_or_else(|| anyhow!("no property {name}"))?;
                content.properties[at] = Some(value);
            }
        }
    }
    content.header(class, weight, size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::matching::full_name;
    use super::*;

    #[test]
    fn full_names_depend_on_the_method() {
        let name = |method: &str, short: &str| full_name(Spec::named(method).unwrap(), short);
        assert_eq!(name("basic.ack", "tag"), "delivery-tag");
        assert_eq!(name("basic.consume", "tag"), "consumer-tag");
        assert_eq!(name("basic.publish", "key"), "routing-key");
    }

    #[test]
    fn a_frame_may_lie() {
        let args = super::super::term::parse("type=3 payload=x:01 size=9 end=x:00").unwrap();
        let mut bytes = Vec::new();
        put_frame(&mut bytes, 2, &args, &Vars::new()).unwrap();
        assert_eq!(bytes, [3, 0, 2, 0, 0, 0, 9, 1, 0]);
    }
}
