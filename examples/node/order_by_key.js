// Two workers share a queue; each account's bookings are worked on one at a time, in order.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const accounts = ['ada', 'bob', 'cyd'];
const bookings = 5;

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
const rules = { 'x-partition-header': 'account' };
await channel.assertQueue('bookings', { durable: true, arguments: rules });
for (let number = 1; number <= bookings; number++) {
  for (const account of accounts) {
    channel.sendToQueue('bookings', Buffer.from(String(number)), { persistent: true, headers: { account } });
  }
}
await channel.waitForConfirms();

const done = new Map(accounts.map((account) => [account, []]));
const busy = new Set();
let left = accounts.length * bookings;
let resolve, reject;
const all = new Promise((...both) => { [resolve, reject] = both; });
for (let worker = 0; worker < 2; worker++) {
  const own = await connection.createChannel();
  await own.prefetch(10);
  await own.consume('bookings', async (message) => {
    if (message === null) return; // The queue was deleted.
    const { account } = message.properties.headers;
    if (busy.has(account)) return reject(new Error('two bookings of one account at a time'));
    busy.add(account);
    await sleep(20);
    busy.delete(account);
    done.get(account).push(Number(message.content));
    own.ack(message);
    if (--left === 0) resolve();
  });
}
await all;
for (const [account, numbers] of done) console.log(`${account}: ${numbers.join(' ')}`);
await channel.deleteQueue('bookings');
await connection.close();
