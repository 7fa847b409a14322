"""Charts of the report; every mark has the address of its evaluate or training step in its tooltip."""
