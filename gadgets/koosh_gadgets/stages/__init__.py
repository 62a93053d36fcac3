"""The gadgets: generators over blocks of readouts, volumes and images; none of them sees a socket."""
