// Opening and closing, queues and exchanges: what is agreed, and what is refused.

import assert from 'node:assert/strict';
import amqp from 'amqplib';
import { check, closing, fill, get, inbox, ready, refused, text, until, url } from './broker.js';

const changed = (change) => {
  const parsed = new URL(url);
  change(parsed);
  return parsed.toString();
};

check('server properties name what clients look for', async (world) => {
  const { connection } = await world.connect();
  const properties = connection.serverProperties;
  assert.equal(properties.product, 'RabbitMQ');
  assert.match(properties.version, /^\d+\.\d+\.\d+/);
  for (const name of ['publisher_confirms', 'exchange_exchange_bindings', 'basic.nack',
    'consumer_cancel_notify', 'connection.blocked', 'authentication_failure_close', 'direct_reply_to']) {
    assert.equal(properties.capabilities[name], true, name);
  }
});

check('close is clean', async (world) => {
  const connection = await world.connect();
  await connection.createChannel();
  const closed = new Promise((resolve) => connection.once('close', resolve));
  await connection.close();
  assert.equal(await closed, undefined);
});

check('a wrong password is refused', async () => {
  await assert.rejects(amqp.connect(changed((u) => (u.password = 'wrong'))), (error) => {
    assert.match(error.message, /403/);
    assert.match(error.message, /ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN/);
    return true;
  });
});

check('an unknown vhost is refused', async () => {
  await assert.rejects(amqp.connect(changed((u) => (u.pathname = '/no-such-vhost'))), (error) => {
    // amqplib names only the method that came instead of open-ok.
    assert.match(error.message, /ConnectionClose/);
    return true;
  });
});

check('heartbeat, channel and frame limits are negotiated', async (world) => {
  const { connection } = await world.connect();
  assert.equal(connection.heartbeat, 60);
  assert.equal(connection.frameMax, 131072);
  assert.equal(connection.channelMax, 2047);
  const small = await amqp.connect(changed((u) => (u.search = 'heartbeat=7&frameMax=4096')));
  assert.equal(small.connection.heartbeat, 7);
  assert.equal(small.connection.frameMax, 4096);
  const channel = await small.createChannel();
  const queue = world.queueName();
  await channel.assertQueue(queue);
  const body = Buffer.alloc(20_000, 'frame');
  channel.sendToQueue(queue, body);
  assert.deepEqual((await get(channel, queue)).content, body);
  await small.close();
});

check('an idle connection lives on heartbeats', async (world) => {
  const connection = await amqp.connect(changed((u) => (u.search = 'heartbeat=1')));
  let failed;
  connection.on('error', (error) => (failed = error));
  const channel = await connection.createChannel();
  await new Promise((resolve) => setTimeout(resolve, 3500));
  await channel.assertQueue(world.queueName());
  assert.equal(failed, undefined);
  await connection.close();
});

check('a channel error leaves the others alive', async (world) => {
  const healthy = await world.channel();
  const sick = await world.channel();
  await refused(sick.checkQueue('nowhere-at-all'), 404, "NOT_FOUND - no queue 'nowhere-at-all' in vhost '/'");
  const queue = await world.queue(healthy);
  await fill(healthy, queue, ['still here']);
  assert.equal(text(await get(healthy, queue)), 'still here');
});

check('a doubled consumer tag ends the connection, and only it', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const other = await (await world.connect()).createChannel();
  const failed = new Promise((resolve) => world.shared.once('error', resolve));
  await channel.consume(queue, () => {}, { consumerTag: 'twice' });
  channel.consume(queue, () => {}, { consumerTag: 'twice' }).catch(() => {});
  const error = await failed;
  assert.equal(error.code, 530);
  assert.match(error.message, /attempt to reuse consumer tag 'twice'/);
  assert.equal(await ready(other, queue), 0);
});

check('the secret can be updated', async (world) => {
  const connection = await world.connect();
  await connection.updateSecret(Buffer.from('guest'), 'routine');
  await connection.createChannel();
});

check('declare answers name and counts', async (world) => {
  const channel = await world.channel();
  const queue = world.queueName();
  assert.deepEqual(await channel.assertQueue(queue), { queue, messageCount: 0, consumerCount: 0 });
  await channel.consume(queue, () => {});
  assert.deepEqual(await channel.checkQueue(queue), { queue, messageCount: 0, consumerCount: 1 });
});

check('missing exchange is 404', async (world) => {
  await refused((await world.channel()).checkExchange('nowhere-at-all'), 404,
    "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'");
});

check('inequivalent declarations are 406', async (world) => {
  const queue = await world.queue(await world.channel(), 'q', { durable: true });
  await refused((await world.channel()).assertQueue(queue, { durable: false }), 406,
    `PRECONDITION_FAILED - inequivalent arg 'durable' for queue '${queue}' in vhost '/': received 'false' but current is 'true'`);
  await refused((await world.channel()).assertQueue(queue, { durable: true, messageTtl: 1000 }), 406,
    `PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '${queue}' in vhost '/': received`);
  const exchange = await world.exchange(await world.channel(), 'direct');
  await refused((await world.channel()).assertExchange(exchange, 'fanout'), 406,
    `PRECONDITION_FAILED - inequivalent arg 'type' for exchange '${exchange}' in vhost '/': received 'fanout' but current is 'direct'`);
});

check('reserved names are 403', async (world) => {
  await refused((await world.channel()).assertQueue('amq.mine'), 403,
    "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'");
});

check('server-named queues', async (world) => {
  const channel = await world.channel();
  const one = await channel.assertQueue('', { exclusive: true });
  const two = await channel.assertQueue('', { exclusive: true });
  assert.match(one.queue, /^amq\.gen-[\w-]{22}$/);
  assert.notEqual(one.queue, two.queue);
});

check('an exclusive queue is locked and goes with its connection', async (world) => {
  const owner = await world.connect();
  const queue = world.queueName();
  await (await owner.createChannel()).assertQueue(queue, { exclusive: true });
  await refused((await world.channel()).checkQueue(queue), 405,
    `RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '${queue}' in vhost '/'`);
  await owner.close();
  await refused((await world.channel()).checkQueue(queue), 404, `NOT_FOUND - no queue '${queue}' in vhost '/'`);
});

check('auto-delete queues and exchanges go with their last user', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel, 'auto', { autoDelete: true });
  const { consumerTag } = await channel.consume(queue, () => {});
  await channel.cancel(consumerTag);
  await refused((await world.channel()).checkQueue(queue), 404, `NOT_FOUND - no queue '${queue}'`);
  const kept = await world.queue(channel, 'kept');
  const exchange = await world.exchange(channel, 'fanout', 'auto', { autoDelete: true });
  await channel.bindQueue(kept, exchange, '');
  await channel.unbindQueue(kept, exchange, '');
  await refused((await world.channel()).checkExchange(exchange), 404, `NOT_FOUND - no exchange '${exchange}'`);
});

check('purge and delete count', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, ['1', '2', '3']);
  assert.deepEqual(await channel.purgeQueue(queue), { messageCount: 3 });
  await fill(channel, queue, ['4', '5']);
  assert.deepEqual(await channel.deleteQueue(queue), { messageCount: 2 });
  assert.deepEqual(await channel.deleteQueue(queue), { messageCount: 0 });
});

check('conditional deletes are 406', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, ['1']);
  await refused((await world.channel()).deleteQueue(queue, { ifEmpty: true }), 406,
    `PRECONDITION_FAILED - queue '${queue}' in vhost '/' not empty`);
  await channel.consume(queue, () => {});
  await refused((await world.channel()).deleteQueue(queue, { ifUnused: true }), 406,
    `PRECONDITION_FAILED - queue '${queue}' in vhost '/' in use`);
  const exchange = await world.exchange(channel, 'direct');
  await channel.bindQueue(queue, exchange, 'k');
  await refused((await world.channel()).deleteExchange(exchange, { ifUnused: true }), 406,
    `PRECONDITION_FAILED - exchange '${exchange}' in vhost '/' in use`);
});

check('deleting a queue cancels its consumers', async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const box = await inbox(channel, queue);
  await (await world.channel()).deleteQueue(queue);
  // amqplib tells the consumer by a null message.
  await until(() => box.got.length === 1);
  assert.equal(box.got[0], null);
  await channel.assertQueue(queue);
});

check('an ack of an unknown tag is 406', async (world) => {
  const channel = await world.channel();
  const closed = closing(channel);
  channel.ack({ fields: { deliveryTag: 42 } });
  await refused(closed, 406, 'PRECONDITION_FAILED - unknown delivery tag 42');
});
