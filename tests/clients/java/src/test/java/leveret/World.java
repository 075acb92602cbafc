package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Timeout;

/**
 * What the suites share: a connection a test, unique names, waiting.
 *
 * <p>Every name carries a random prefix and is deleted after its test. AMQP_URL names the broker.
 */
@Timeout(60)
abstract class World {
    static final long PATIENCE = TimeUnit.SECONDS.toNanos(15);
    static final AMQP.BasicProperties PLAIN = new AMQP.BasicProperties();

    final String prefix = "clients-java-" + UUID.randomUUID().toString().substring(0, 13);
    final Set<String> queues = new LinkedHashSet<>();
    final Set<String> exchanges = new LinkedHashSet<>();
    final List<Connection> connections = new ArrayList<>();
    Connection connection;

    static ConnectionFactory factory() throws Exception {
        String url = System.getenv().getOrDefault("AMQP_URL", "amqp://guest:guest@localhost:5672/");
        ConnectionFactory factory = new ConnectionFactory();
        // The client takes a bare "/" as the vhost with the empty name.
        factory.setUri(url.replaceFirst("(?<=[^/])/$", "/%2f"));
        factory.setAutomaticRecoveryEnabled(false);
        return factory;
    }

    @BeforeEach
    void open() throws Exception {
        connection = connect();
    }

    @AfterEach
    void clean() throws Exception {
        try (Connection last = factory().newConnection(); Channel channel = last.createChannel()) {
            for (Connection open : connections) {
                open.abort();
            }
            for (String queue : queues) {
                channel.queueDelete(queue);
            }
            for (String exchange : exchanges) {
                channel.exchangeDelete(exchange);
            }
        }
    }

    Connection connect() throws Exception {
        Connection opened = factory().newConnection();
        connections.add(opened);
        return opened;
    }

    Channel channel() throws IOException {
        return connection.createChannel();
    }

    String queueName(String label) {
        queues.add(prefix + "-" + label);
        return prefix + "-" + label;
    }

    String queue(Channel channel, String label, Map<String, Object> arguments) throws IOException {
        return channel.queueDeclare(queueName(label), true, false, false, arguments).getQueue();
    }

    String queue(Channel channel) throws IOException {
        return queue(channel, "q", null);
    }

    String exchange(Channel channel, String label, String type) throws IOException {
        exchanges.add(prefix + "-" + label);
        channel.exchangeDeclare(prefix + "-" + label, type);
        return prefix + "-" + label;
    }

    /** How many messages are ready, after all that this channel sent before. */
    static long ready(Channel channel, String queue) throws IOException {
        return channel.messageCount(queue);
    }

    static void until(Callable<Boolean> done) throws Exception {
        long deadline = System.nanoTime() + PATIENCE;
        while (!done.call()) {
            assertTrue(System.nanoTime() < deadline, "waited too long");
            Thread.sleep(20);
        }
    }

    static void untilReady(Channel channel, String queue, long count) throws Exception {
        until(() -> ready(channel, queue) == count);
    }

    static void publish(Channel channel, String exchange, String key, String body) throws IOException {
        channel.basicPublish(exchange, key, PLAIN, bytes(body));
    }

    /** Publishes the bodies to the queue and waits until they are all in it. */
    static void fill(Channel channel, String queue, List<String> bodies) throws Exception {
        long before = ready(channel, queue);
        for (String body : bodies) {
            publish(channel, "", queue, body);
        }
        untilReady(channel, queue, before + bodies.size());
    }

    /** Fetches one message, waiting for it to be routed. */
    static GetResponse get(Channel channel, String queue, boolean autoAck) throws Exception {
        long deadline = System.nanoTime() + PATIENCE;
        while (System.nanoTime() < deadline) {
            GetResponse message = channel.basicGet(queue, autoAck);
            if (message != null) {
                return message;
            }
            Thread.sleep(20);
        }
        return fail("no message in " + queue);
    }

    /** A consumer that keeps what it gets. */
    static final class Inbox {
        final BlockingQueue<Delivery> got = new LinkedBlockingQueue<>();
        final BlockingQueue<String> cancelled = new LinkedBlockingQueue<>();
        final String tag;

        Inbox(Channel channel, String queue, boolean autoAck) throws IOException {
            tag = channel.basicConsume(queue, autoAck, (t, delivery) -> got.add(delivery), cancelled::add);
        }

        List<Delivery> take(int count) throws Exception {
            List<Delivery> taken = new ArrayList<>();
            while (taken.size() < count) {
                Delivery next = got.poll(PATIENCE, TimeUnit.NANOSECONDS);
                assertTrue(next != null, "only " + taken.size() + " of " + count + " deliveries came");
                taken.add(next);
            }
            return taken;
        }
    }

    static long tag(Delivery delivery) {
        return delivery.getEnvelope().getDeliveryTag();
    }

    static long tag(GetResponse message) {
        return message.getEnvelope().getDeliveryTag();
    }

    static List<String> bodies(List<Delivery> deliveries) {
        return deliveries.stream().map(d -> text(d.getBody())).toList();
    }

    static List<Boolean> redelivered(List<Delivery> deliveries) {
        return deliveries.stream().map(d -> d.getEnvelope().isRedeliver()).toList();
    }

    static List<String> numbers(int from, int to) {
        return IntStream.range(from, to).mapToObj(Integer::toString).toList();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    interface Action {
        void run() throws Exception;
    }

    /** Expects the action to end with a channel close of this code and text prefix. */
    static void refused(int code, String prefix, Action action) {
        Exception thrown = assertThrows(Exception.class, action::run);
        Throwable cause = thrown instanceof AlreadyClosedException ? thrown : thrown.getCause();
        if (cause instanceof ShutdownSignalException signal) {
            check(signal, code, prefix);
        } else {
            fail("expected " + code + " " + prefix + ", got " + thrown);
        }
    }

    /** Waits for the close of a channel, for methods that have no answer of their own. */
    static void closes(Channel channel, int code, String prefix) throws Exception {
        until(() -> !channel.isOpen());
        check(channel.getCloseReason(), code, prefix);
    }

    private static void check(ShutdownSignalException signal, int code, String prefix) {
        if (signal.getReason() instanceof AMQP.Channel.Close close) {
            assertEquals(code, close.getReplyCode(), close.getReplyText());
            assertTrue(close.getReplyText().startsWith(prefix), close.getReplyText());
        } else if (signal.getReason() instanceof AMQP.Connection.Close close) {
            assertEquals(code, close.getReplyCode(), close.getReplyText());
            assertTrue(close.getReplyText().startsWith(prefix), close.getReplyText());
        } else {
            fail("no close in " + signal);
        }
    }
}
