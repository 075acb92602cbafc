// What the amqplib suites share: a connection a test, unique names, waiting.
//
// Every name carries a random prefix and is deleted after its test. AMQP_URL names the broker.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import amqp from 'amqplib';

export const url = process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/';
const patience = 15_000;

/** Runs one test with a fresh world, and cleans up behind it. */
export function check(title, body) {
  test(title, { timeout: 60_000 }, async () => {
    const world = new World();
    try {
      await body(world);
    } finally {
      await world.clean();
    }
  });
}

class World {
  prefix = `clients-node-${randomUUID().slice(0, 13)}`;
  queues = new Set();
  exchanges = new Set();
  connections = [];

  async connect(options) {
    const connection = await amqp.connect(url, options);
    connection.on('error', () => {});
    this.connections.push(connection);
    return connection;
  }

  async channel() {
    this.shared ??= await this.connect();
    return quiet(await this.shared.createChannel());
  }

  async confirmChannel() {
    this.shared ??= await this.connect();
    return quiet(await this.shared.createConfirmChannel());
  }

  queueName(label = 'q') {
    const name = `${this.prefix}-${label}`;
    this.queues.add(name);
    return name;
  }

  exchangeName(label = 'x') {
    const name = `${this.prefix}-${label}`;
    this.exchanges.add(name);
    return name;
  }

  async queue(channel, label, options) {
    return (await channel.assertQueue(this.queueName(label), options)).queue;
  }

  async exchange(channel, type, label, options) {
    return (await channel.assertExchange(this.exchangeName(label), type, options)).exchange;
  }

  async clean() {
    const connection = await amqp.connect(url);
    const channel = await connection.createChannel();
    for (const open of this.connections) await open.close().catch(() => {});
    for (const queue of this.queues) await channel.deleteQueue(queue);
    for (const exchange of this.exchanges) await channel.deleteExchange(exchange);
    await connection.close();
  }
}

/** Channel errors also come as events; without a listener they would end the process. */
function quiet(channel) {
  channel.on('error', () => {});
  return channel;
}

/** Waits until `done` holds, at most `patience`. */
export async function until(done) {
  const deadline = Date.now() + patience;
  while (!(await done())) {
    assert.ok(Date.now() < deadline, 'waited too long');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** How many messages are ready, after all that this channel sent before. */
export async function ready(channel, queue) {
  return (await channel.checkQueue(queue)).messageCount;
}

/** Publishes the bodies to the queue and waits until they are all in it. */
export async function fill(channel, queue, bodies, options) {
  const before = await ready(channel, queue);
  for (const body of bodies) channel.sendToQueue(queue, Buffer.from(body), options);
  await until(async () => (await ready(channel, queue)) === before + bodies.length);
}

/** Fetches one message, waiting for it to be routed. */
export async function get(channel, queue, options = { noAck: true }) {
  let message = false;
  await until(async () => (message = await channel.get(queue, options)));
  return message;
}

/** A consumer that keeps what it gets. */
export async function inbox(channel, queue, options) {
  const got = [];
  const { consumerTag } = await channel.consume(queue, (message) => got.push(message), options);
  return {
    got,
    tag: consumerTag,
    bodies: () => got.map(text),
    wait: async (count) => {
      await until(() => got.length >= count);
      return got;
    },
  };
}

export const text = (message) => message.content.toString();
export const numbers = (count) => Array.from({ length: count }, (_, n) => String(n));

/** Expects a channel close with this code and text prefix. */
export async function refused(promise, code, prefix) {
  const error = await promise.then(
    () => assert.fail(`expected ${code} ${prefix}`),
    (error) => error,
  );
  assert.equal(error.code, code, error.message);
  assert.ok(error.message.includes(`"${prefix}`), `${error.message} lacks ${prefix}`);
}

/** The error event of a channel, for methods that have no answer of their own. */
export function closing(channel) {
  return new Promise((_, reject) => channel.once('error', reject));
}
