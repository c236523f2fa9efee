"""What speaks to other machines: DICOM over the network, what is received, sent, asked for and told of."""
