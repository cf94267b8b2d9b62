"""What a step at full size needs and how long it takes at best, before anybody has the devices."""
