// One account's transfer fails; the queue's signals name the account that stands, and who waits behind it.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const server = process.env.HTTP_URL ?? 'http://localhost:15672';
const headers = { authorization: `Basic ${btoa('guest:guest')}` };

async function signals(queue, keys = 10) {
  const response = await fetch(new URL(`/v1/queues/${queue}/signals?keys=${keys}`, server), { headers });
  return response.json();
}

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
const rules = { 'x-partition-header': 'account', 'x-retry-delay': 60_000 };
await channel.assertQueue('transfers', { durable: true, arguments: rules });
console.log('dead letters at first:', (await signals('transfers')).dead_letters);
for (const account of ['ada', 'ada', 'ada', 'bob']) {
  channel.sendToQueue('transfers', Buffer.from('10'), { persistent: true, headers: { account } });
}
await channel.waitForConfirms();

// The bank of ada does not answer: next try in a minute.
channel.reject(await channel.get('transfers'), false);
let now;
do {
  await sleep(50);
  now = await signals('transfers');
} while (now.waiting === 0);
console.log(`ready ${now.ready}, waiting ${now.waiting}`);
for (const { key, state, behind } of now.keys) console.log(`${key}: ${state}, ${behind} behind`);
if (now.keys[0].head_age_ms < now.oldest_ready_ms) throw new Error('the head is older than who waits');
await channel.deleteQueue('transfers');
await connection.close();
