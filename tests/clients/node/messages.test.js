// Messages: confirms, returns, settling, prefetch, bodies, properties, TTL, dead letters, RPC.

import assert from 'node:assert/strict';
import { check, closing, fill, get, inbox, numbers, ready, refused, text, until } from './broker.js';

const replyTo = 'amq.rabbitmq.reply-to';

check('single and bulk confirms', async (world) => {
  const channel = await world.confirmChannel();
  const queue = await world.queue(channel);
  await new Promise((resolve, reject) =>
    channel.sendToQueue(queue, Buffer.from('one'), { persistent: true }, (error) => (error ? reject(error) : resolve())));
  assert.equal(await ready(channel, queue), 1);
  let confirmed = 0;
  for (const body of numbers(2000)) {
    channel.sendToQueue(queue, Buffer.from(body), { persistent: true }, (error) => (confirmed += error ? 0 : 1));
  }
  await channel.waitForConfirms();
  assert.equal(confirmed, 2000);
  assert.equal(await ready(channel, queue), 2001);
  const box = await inbox(channel, queue, { noAck: true });
  await box.wait(2001);
  assert.deepEqual(box.bodies(), ['one', ...numbers(2000)]);
});

check('mandatory messages come back before their confirm', async (world) => {
  const channel = await world.confirmChannel();
  const events = [];
  channel.on('return', (message) => events.push(message));
  channel.publish('amq.direct', 'nobody-listens-here', Buffer.from('back'), { mandatory: true, messageId: '7' },
    (error) => events.push(error ?? 'confirmed'));
  await channel.waitForConfirms();
  const [{ fields, properties, content }, last] = events;
  assert.equal(fields.replyCode, 312);
  assert.equal(fields.replyText, 'NO_ROUTE');
  assert.equal(fields.exchange, 'amq.direct');
  assert.equal(fields.routingKey, 'nobody-listens-here');
  assert.equal(properties.messageId, '7');
  assert.equal(content.toString(), 'back');
  assert.equal(last, 'confirmed');
  assert.equal(events.length, 2);
});

check('publishing to a missing exchange closes the channel', async (world) => {
  const channel = await world.channel();
  const closed = closing(channel);
  channel.publish('nowhere-at-all', 'k', Buffer.from('m'));
  await refused(closed, 404, "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'");
});

check('ack each and ack multiple', async (world) => {
  const watch = await world.channel();
  const queue = await world.queue(watch);
  await fill(watch, queue, numbers(10));
  const channel = await world.channel();
  const box = await inbox(channel, queue);
  await box.wait(10);
  channel.ack(box.got[0]);
  channel.ack(box.got[5], true);
  await channel.close();
  await until(async () => (await ready(watch, queue)) === 4);
  assert.deepEqual([text(await get(watch, queue)), text(await get(watch, queue))], ['6', '7']);
});

check('ackAll and nackAll settle everything', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, numbers(3));
  const box = await inbox(channel, queue);
  await box.wait(3);
  channel.nackAll(true);
  await box.wait(6);
  assert.deepEqual(box.got.slice(3).map((m) => [text(m), m.fields.redelivered]), [['0', true], ['1', true], ['2', true]]);
  channel.ackAll();
  await channel.close();
  assert.equal(await ready(await world.channel(), queue), 0);
});

for (const verb of ['nack', 'reject']) {
  const settle = (channel, message, requeue) =>
    verb === 'nack' ? channel.nack(message, false, requeue) : channel.reject(message, requeue);

  check(`${verb} with requeue returns to the original place`, async (world) => {
    const channel = await world.channel();
    const queue = await world.queue(channel);
    await fill(channel, queue, numbers(4));
    const first = await channel.get(queue);
    const second = await channel.get(queue);
    assert.equal(first.fields.redelivered, false);
    settle(channel, second, true);
    await until(async () => (await ready(channel, queue)) === 3);
    settle(channel, first, true);
    await until(async () => (await ready(channel, queue)) === 4);
    const again = [];
    for (let n = 0; n < 4; n += 1) again.push(await get(channel, queue));
    assert.deepEqual(again.map(text), numbers(4));
    assert.deepEqual(again.map((m) => m.fields.redelivered), [true, true, false, false]);
  });

  check(`${verb} without requeue drops`, async (world) => {
    const channel = await world.channel();
    const queue = await world.queue(channel);
    await fill(channel, queue, ['m']);
    settle(channel, await channel.get(queue), false);
    await channel.close();
    assert.equal(await ready(await world.channel(), queue), 0);
  });
}

check('closing a channel returns its unacked in order', async (world) => {
  const watch = await world.channel();
  const queue = await world.queue(watch);
  await fill(watch, queue, numbers(10));
  const channel = await world.channel();
  await channel.prefetch(5);
  await (await inbox(channel, queue)).wait(5);
  await channel.close();
  await until(async () => (await ready(watch, queue)) === 10);
  const box = await inbox(watch, queue, { noAck: true });
  await box.wait(10);
  assert.deepEqual(box.bodies(), numbers(10));
  assert.deepEqual(box.got.map((m) => m.fields.redelivered), numbers(10).map((n) => n < 5));
});

check('prefetch bounds the unacked', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, numbers(10));
  await channel.prefetch(3);
  const box = await inbox(channel, queue);
  await box.wait(3);
  assert.equal(await ready(channel, queue), 7);
  assert.equal(box.got.length, 3);
  channel.ack(box.got[1], true);
  await box.wait(5);
  assert.equal(await ready(channel, queue), 5);
  assert.deepEqual(box.bodies(), numbers(5));
});

check('a channel-wide prefetch is shared', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, numbers(10));
  await channel.prefetch(3, true);
  const boxes = [await inbox(channel, queue), await inbox(channel, queue)];
  await until(() => boxes[0].got.length + boxes[1].got.length === 3);
  assert.equal(await ready(channel, queue), 7);
});

check('get answers a message with its count, or nothing', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  assert.equal(await channel.get(queue), false);
  await fill(channel, queue, numbers(3));
  const message = await channel.get(queue);
  assert.equal(message.fields.messageCount, 2);
  assert.equal(message.fields.routingKey, queue);
  channel.ack(message);
  assert.equal(text(await channel.get(queue, { noAck: true })), '1');
});

check('consumer tags are the server\'s or the client\'s, and cancel ends them', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const box = await inbox(channel, queue, { noAck: true });
  assert.match(box.tag, /^amq\.ctag-/);
  await channel.cancel(box.tag);
  await fill(channel, queue, ['m']);
  assert.equal(box.got.length, 0);
  const mine = await inbox(channel, queue, { noAck: true, consumerTag: 'mine' });
  assert.equal(mine.tag, 'mine');
  await mine.wait(1);
});

check('consumers take turns', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const boxes = [];
  for (let n = 0; n < 3; n += 1) boxes.push(await inbox(channel, queue, { noAck: true }));
  for (const body of numbers(30)) channel.sendToQueue(queue, Buffer.from(body));
  await until(() => boxes.reduce((sum, box) => sum + box.got.length, 0) === 30);
  assert.deepEqual(boxes.map((box) => box.got.length), [10, 10, 10]);
});

check('an exclusive consumer keeps others out', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await channel.consume(queue, () => {}, { exclusive: true });
  await refused((await world.channel()).consume(queue, () => {}), 403,
    `ACCESS_REFUSED - queue '${queue}' in vhost '/' in exclusive use`);
});

check('topic bindings', async (world) => {
  const channel = await world.confirmChannel();
  const exchange = await world.exchange(channel, 'topic');
  const patterns = ['#', 'log.*', 'log.#', '*.error', '*.*.error', 'log.disk.error'];
  const queues = new Map();
  for (const [n, pattern] of patterns.entries()) {
    queues.set(pattern, await world.queue(channel, `t${n}`));
    await channel.bindQueue(queues.get(pattern), exchange, pattern);
  }
  const expected = {
    'log': ['#', 'log.#'],
    'log.error': ['#', 'log.*', 'log.#', '*.error'],
    'log.disk.error': ['#', 'log.#', '*.*.error', 'log.disk.error'],
    'app.error': ['#', '*.error'],
    'app': ['#'],
  };
  for (const [key, wanted] of Object.entries(expected)) {
    channel.publish(exchange, key, Buffer.from('m'));
    await channel.waitForConfirms();
    const reached = [];
    for (const [pattern, queue] of queues) {
      if ((await channel.purgeQueue(queue)).messageCount === 1) reached.push(pattern);
    }
    assert.deepEqual(reached, wanted, key);
  }
});

check('headers bindings', async (world) => {
  const channel = await world.confirmChannel();
  const exchange = await world.exchange(channel, 'headers');
  const all = await world.queue(channel, 'all');
  const any = await world.queue(channel, 'any');
  await channel.bindQueue(all, exchange, '', { 'x-match': 'all', format: 'pdf', pages: 3 });
  await channel.bindQueue(any, exchange, '', { 'x-match': 'any', format: 'pdf', pages: 3 });
  for (const [headers, wanted] of [
    [{ format: 'pdf', pages: 3 }, [1, 1]],
    [{ format: 'pdf', pages: 4 }, [0, 1]],
    [{ format: 'zip' }, [0, 0]],
    [{}, [0, 0]],
  ]) {
    channel.publish(exchange, 'ignored', Buffer.from('m'), { headers });
    await channel.waitForConfirms();
    assert.deepEqual([(await channel.purgeQueue(all)).messageCount, (await channel.purgeQueue(any)).messageCount], wanted);
  }
});

check('fanout and exchange to exchange', async (world) => {
  const channel = await world.confirmChannel();
  const source = await world.exchange(channel, 'topic', 'source');
  const fan = await world.exchange(channel, 'fanout', 'fan');
  const queues = [await world.queue(channel, 'a'), await world.queue(channel, 'b')];
  for (const queue of queues) await channel.bindQueue(queue, fan, '');
  await channel.bindExchange(fan, source, 'eu.*');
  channel.publish(source, 'eu.de', Buffer.from('through'));
  channel.publish(source, 'us.ny', Buffer.from('not'));
  await channel.waitForConfirms();
  for (const queue of queues) assert.equal(text(await channel.get(queue, { noAck: true })), 'through');
  await channel.unbindExchange(fan, source, 'eu.*');
  channel.publish(source, 'eu.de', Buffer.from('late'));
  await channel.waitForConfirms();
  assert.equal(await ready(channel, queues[0]), 0);
});

check('bodies of every size', async (world) => {
  const channel = await world.confirmChannel();
  const queue = await world.queue(channel);
  for (const size of [0, 1, 131_064, 131_065, 1 << 20]) {
    const body = Buffer.alloc(size, 'abcdefg');
    channel.sendToQueue(queue, body, { persistent: true });
    await channel.waitForConfirms();
    assert.deepEqual((await get(channel, queue)).content, body);
  }
});

check('properties round trip', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const sent = {
    contentType: 'application/json', contentEncoding: 'gzip', deliveryMode: 2, priority: 5,
    correlationId: 'c-1', replyTo: 'somewhere', expiration: '3600000', messageId: 'm-1',
    timestamp: 1_700_000_000, type: 'kind', userId: 'guest', appId: 'suite',
  };
  await fill(channel, queue, ['{}'], { ...sent, headers: { k: 'v' } });
  const { properties } = await get(channel, queue);
  for (const [name, value] of Object.entries(sent)) assert.equal(properties[name], value, name);
  assert.deepEqual({ ...properties.headers }, { k: 'v' });
});

check('header tables of all types round trip', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const headers = {
    yes: true, no: false, nothing: null, text: 'grüße', empty: '', bytes: Buffer.from([0, 255, 128]),
    byte: { '!': 'byte', value: -5 }, short: { '!': 'short', value: -300 }, int: -70_000, long: 2 ** 45,
    double: 3.141592653589793, float: { '!': 'float', value: 0.5 },
    decimal: { '!': 'decimal', value: { digits: 1234, places: 2 } },
    time: { '!': 'timestamp', value: 1_700_000_000 },
    list: [1, 'two', false, null, [3, { deep: 'er' }]], table: { inner: { more: [1, 2] }, none: {} }, none: [],
  };
  await fill(channel, queue, ['m'], { headers });
  const got = (await get(channel, queue)).properties.headers;
  assert.deepEqual(JSON.parse(JSON.stringify(got)), JSON.parse(JSON.stringify({
    ...headers, byte: -5, short: -300, float: 0.5,
  })));
});

check('messages expire by their own and by the queue\'s TTL', async (world) => {
  const channel = await world.channel();
  const grave = await world.queue(channel, 'grave');
  const dead = { deadLetterExchange: '', deadLetterRoutingKey: grave };
  const own = await world.queue(channel, 'own', dead);
  const bulk = await world.queue(channel, 'bulk', { ...dead, messageTtl: 50 });
  channel.sendToQueue(own, Buffer.from('own'), { expiration: 50, headers: { mine: 'kept' } });
  const first = await get(channel, grave);
  assert.equal(text(first), 'own');
  assert.equal(first.properties.expiration, undefined);
  assert.equal(first.properties.headers.mine, 'kept');
  const [death, ...more] = first.properties.headers['x-death'];
  assert.equal(more.length, 0);
  assert.equal(death.reason, 'expired');
  assert.equal(death.count, 1);
  assert.equal(death.queue, own);
  assert.equal(death.exchange, '');
  assert.deepEqual(death['routing-keys'], [own]);
  assert.equal(death['original-expiration'], '50');
  assert.equal(first.properties.headers['x-first-death-reason'], 'expired');
  channel.sendToQueue(bulk, Buffer.from('bulk'));
  assert.equal(text(await get(channel, grave)), 'bulk');
});

check('rejected messages are dead-lettered, and the ladder counts', async (world) => {
  const channel = await world.channel();
  const work = world.queueName('work');
  const wait = await world.queue(channel, 'wait', { messageTtl: 50, deadLetterExchange: '', deadLetterRoutingKey: work });
  await channel.assertQueue(work, { deadLetterExchange: '', deadLetterRoutingKey: wait });
  channel.sendToQueue(work, Buffer.from('job'));
  for (let round = 0; round < 2; round += 1) {
    channel.nack(await get(channel, work, {}), false, false);
  }
  const message = await get(channel, work);
  const deaths = message.properties.headers['x-death'].map((d) => [d.queue, d.reason, d.count]);
  assert.deepEqual(deaths, [[wait, 'expired', 2], [work, 'rejected', 2]]);
  assert.equal(message.properties.headers['x-first-death-queue'], work);
  assert.equal(message.fields.redelivered, false);
});

check('direct reply-to', async (world) => {
  const worker = await world.channel();
  const queue = await world.queue(worker);
  await worker.consume(queue, (message) => {
    worker.sendToQueue(message.properties.replyTo, Buffer.from(text(message).toUpperCase()),
      { correlationId: message.properties.correlationId });
    worker.ack(message);
  });
  const channel = await (await world.connect()).createChannel();
  const box = await inbox(channel, replyTo, { noAck: true });
  for (const n of numbers(10)) {
    channel.sendToQueue(queue, Buffer.from(`call ${n}`), { replyTo, correlationId: n });
  }
  await box.wait(10);
  assert.deepEqual(new Map(box.got.map((m) => [m.properties.correlationId, text(m)])),
    new Map(numbers(10).map((n) => [n, `CALL ${n}`])));
});

check('a request without a reply consumer is 406', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const closed = closing(channel);
  channel.sendToQueue(queue, Buffer.from('m'), { replyTo });
  await refused(closed, 406, 'PRECONDITION_FAILED - fast reply consumer does not exist');
});

check('recover redelivers the unacked', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, ['m']);
  const box = await inbox(channel, queue);
  await box.wait(1);
  await channel.recover();
  await box.wait(2);
  assert.equal(box.got[1].fields.redelivered, true);
});
