"""What a container file says of its video: streams, packets, times, orientation."""
