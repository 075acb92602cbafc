import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConnectionFactory;

/** Consumes mails and acknowledges each. */
public class Consume {
    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        // For this client the vhost "/" is no path at all.
        String url = System.getenv().getOrDefault("AMQP_URL", "amqp://guest:guest@localhost:5672/");
        factory.setUri(url.replaceFirst("/$", ""));
        Channel channel = factory.newConnection().createChannel();
        channel.queueDeclare("mails", true, false, false, null);
        channel.basicQos(20);
        System.out.println("waiting for mails");
        channel.basicConsume("mails", false, (tag, delivery) -> {
            System.out.println("got: " + new String(delivery.getBody()));
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        }, tag -> System.out.println("the queue was deleted"));
        Thread.currentThread().join();
    }
}
